//! `engine export --gguf`: a model becomes a GGUF for llama.cpp, and a `Modelfile` for Ollama beside it.
//!
//! The layout is that of llama.cpp's own files of Gemma 3: its names ([`parameters`]), norms with 1 added, the tokenizer as
//! SentencePiece had it ([`GgufVocab`]). Weights are read, rounded and written a piece at a time.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::atomic::{write_atomically, write_whole};
use super::folder::{OutputFolder, with_disk_hint};
use super::gguf_header::{GgufHeader, padding};
use super::gguf_model::{KEYS, Stored, hyperparameters};
use super::gguf_type::GgufType;
use super::gguf_vocab::GgufVocab;
use super::model_files::TokenizerFiles;
use super::modelfile;
use super::source::{ModelSource, Weights};
use crate::chat::functiongemma::tokens;
use crate::chat::template::{ChatTemplate, SpecialTokens, load_special_tokens};
use crate::device::room;
use crate::err;
use crate::error::{Context, Result};
use crate::model::gemma3::config::{Gemma3Config, LayerType};
use crate::model::gemma3::table::{Parameter, parameters};
use crate::model::generation_config::GenerationConfig;

/// Elements in memory at once; a multiple of every block.
const PIECE: usize = 1 << 22;
/// Every so-many-th layer attends fully where a GGUF does not say it.
const USUAL_PATTERN: usize = 6;
/// RoPE theta of the sliding layers where a GGUF does not say it.
const USUAL_LOCAL_THETA: f64 = 1e4;

/// What was written.
#[derive(Debug)]
pub struct Exported {
    pub modelfile: PathBuf,
    /// Of the GGUF.
    pub bytes: u64,
    /// What the GGUF cannot say.
    pub warnings: Vec<String>,
}

/// Writes `source` to the file `output`, its matrices in the format `kind`, and the `Modelfile` beside it: each whole or not at
/// all. `progress` is told how many tensors are written, of how many; its error ends the export.
///
/// # Errors
/// A file is in the way and not to be replaced (`may_replace`), the model cannot be used or is none that a GGUF can describe, rows are
/// no whole blocks of `kind`, the tokenizer is missing or not Gemma's, or the disk refuses. Nothing is left behind then.
pub fn export_gguf(
    source: &ModelSource,
    kind: GgufType,
    output: &Path,
    may_replace: bool,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Exported> {
    let place = Place::check(output, may_replace)?;
    let config = source.load_config()?;
    let parameters = parameters(&config);
    kind.check(&parameters)?;
    let generation_config = GenerationConfig::load(source.folder(), &config)?;
    let mut header = GgufHeader::default();
    describe_model(&mut header, place.name, kind, &config)?;
    let warnings = describe_tokenizer(&mut header, source.folder(), &config, &generation_config)?;
    parameters.iter().for_each(|parameter| header.tensor(parameter, kind.of(parameter)));
    let weights = Weights::open(source, &config)?;
    let start = header.bytes();
    let bytes = start.len() as u64 + header.data_bytes();
    OutputFolder::require_space(place.folder, bytes)?;
    let write = |file: &mut File| {
        file.write_all(&start).context(|| "the disk refuses")?;
        write_tensors(file, &weights, kind, &parameters, &mut progress)
    };
    write_whole(output, may_replace, write).map_err(with_disk_hint)?;
    write_atomically(&place.modelfile, modelfile::modelfile(place.name, &generation_config).as_bytes())?;
    Ok(Exported { modelfile: place.modelfile, bytes, warnings })
}

/// Where the two files go.
struct Place<'a> {
    folder: &'a Path,
    /// Of the GGUF.
    name: &'a str,
    modelfile: PathBuf,
}

impl<'a> Place<'a> {
    fn check(output: &'a Path, may_replace: bool) -> Result<Self> {
        let shown = output.display();
        let name = output.file_name().and_then(|name| name.to_str()).filter(|name| !name.contains(char::is_control));
        let Some(name) = name else { return Err(err!("`{shown}` is no name for a file")) };
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(err!("there is no folder `{}` for the file", folder.display()).hint("create it first"));
        }
        let modelfile = folder.join("Modelfile");
        match fs::symlink_metadata(output) {
            Ok(found) if found.is_dir() => {
                return Err(err!("`{shown}` is a folder")
                    .hint(format!("name a file, for example `{}`", output.join("model.gguf").display())));
            }
            Ok(_) if !may_replace => {
                return Err(
                    err!("`{shown}` exists already").hint("choose another file, or `--overwrite` to replace this one")
                );
            }
            _ => {}
        }
        if !may_replace {
            modelfile::check_place(&modelfile)?;
        }
        Ok(Self { folder, name, modelfile })
    }
}

fn describe_model(header: &mut GgufHeader, name: &str, kind: GgufType, config: &Gemma3Config) -> Result<()> {
    header.text("general.architecture", "gemma3");
    header.text("general.type", "model");
    header.text("general.name", name.strip_suffix(".gguf").unwrap_or(name));
    for ((key, field, stored), value) in KEYS.into_iter().zip(hyperparameters(config)) {
        let key = format!("gemma3.{key}");
        match stored {
            Stored::F32 => header.f32(&key, value as f32),
            Stored::U32 if value <= f64::from(u32::MAX) => header.u32(&key, value as u32),
            Stored::U32 => return Err(err!("`{field}` is {value}: too large for a GGUF")),
        }
    }
    header.u32("gemma3.attention.value_length", config.head_dim as u32);
    if config.query_pre_attn_scalar != config.head_dim as f64 {
        let (scalar, head_dim) = (config.query_pre_attn_scalar, config.head_dim);
        return Err(err!(
            "`query_pre_attn_scalar` is {scalar}, not `head_dim` ({head_dim}): llama.cpp does not compute that"
        ));
    }
    if config.rope_local_base_freq != USUAL_LOCAL_THETA {
        header.f32("gemma3.rope.freq_base_swa", config.rope_local_base_freq as f32);
    }
    match pattern(&config.layer_types) {
        Some(USUAL_PATTERN) => {}
        Some(pattern) => header.u32("gemma3.attention.sliding_window_pattern", pattern as u32),
        None => return Err(err!("`layer_types` has no pattern of every n-th layer, which is all that a GGUF can say")),
    }
    header.u32("general.quantization_version", 2);
    header.u32("general.file_type", kind.file_type());
    Ok(())
}

/// The n of "every n-th layer attends fully", where that is so; the usual one where several are right.
fn pattern(layers: &[LayerType]) -> Option<usize> {
    let is_full = |kind: &LayerType| *kind == LayerType::FullAttention;
    let is_pattern = |n: usize| layers.iter().enumerate().all(|(i, kind)| is_full(kind) == (i + 1).is_multiple_of(n));
    [USUAL_PATTERN].into_iter().chain(1..=layers.len() + 1).find(|n| is_pattern(*n))
}

/// Gives what a GGUF cannot say of the tokenizer.
fn describe_tokenizer(
    header: &mut GgufHeader,
    folder: &Path,
    config: &Gemma3Config,
    generation_config: &GenerationConfig,
) -> Result<Vec<String>> {
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        return Err(err!("`{}` has no `tokenizer.json`", folder.display())
            .hint("a GGUF holds the tokenizer, too: put that of the original checkpoint into the folder"));
    }
    let files = TokenizerFiles::read(folder)?;
    let vocab = GgufVocab::parse(files.text("tokenizer.json")?, config.vocab_size)
        .context(|| format!("the tokenizer `{}` cannot be exported", path.display()))?;
    let special = load_special_tokens(folder)?;
    header.text("tokenizer.ggml.model", "llama");
    header.text("tokenizer.ggml.pre", "default");
    header.texts("tokenizer.ggml.tokens", &vocab.tokens);
    header.f32s("tokenizer.ggml.scores", &vocab.scores);
    header.i32s("tokenizer.ggml.token_type", &vocab.types);
    for (key, name, usual) in [
        ("bos", "bos_token", tokens::BOS),
        ("unknown", "unk_token", tokens::UNKNOWN),
        ("padding", "pad_token", tokens::PAD),
    ] {
        if let Some(id) = named(&vocab, &special, name, usual) {
            header.u32(&format!("tokenizer.ggml.{key}_token_id"), id);
        }
    }
    header.bool("tokenizer.ggml.add_bos_token", true);
    for key in ["add_eos_token", "add_sep_token", "add_space_prefix"] {
        header.bool(&format!("tokenizer.ggml.{key}"), false);
    }
    let eos = named(&vocab, &special, "eos_token", tokens::EOS);
    let (stops, warning) = Stops::new(&generation_config.eos_token_id, eos, &vocab);
    stops.describe(header, &generation_config.eos_token_id);
    header.text("tokenizer.chat_template", ChatTemplate::load(folder, special)?.source());
    Ok(warning.into_iter().collect())
}

fn named(vocab: &GgufVocab, special: &SpecialTokens, name: &str, usual: &str) -> Option<u32> {
    vocab.id(special.get(name).map_or(usual, String::as_str))
}

/// The three tokens at which llama.cpp stops: a list has no place in its files.
struct Stops {
    eos: Option<u32>,
    /// End of turn.
    eot: Option<u32>,
    /// End of message: the model has called a tool and waits for the response.
    eom: Option<u32>,
}

impl Stops {
    /// Of all the checkpoint's stop tokens, with a warning of those that have no place.
    fn new(all: &[u32], eos: Option<u32>, vocab: &GgufVocab) -> (Self, Option<String>) {
        let mut rest = all.to_vec();
        let mut take = |wanted: Option<u32>| {
            let at = rest.iter().position(|id| Some(*id) == wanted)?;
            Some(rest.remove(at))
        };
        let eos = take(eos).or(eos);
        let eot = take(vocab.id(tokens::END_TURN));
        let eom = take(vocab.id(tokens::START_RESPONSE));
        let mut rest = rest.into_iter();
        let eos = eos.or_else(|| rest.next());
        let eot = eot.or_else(|| rest.next());
        let eom = eom.or_else(|| rest.next());
        let left: Vec<String> = rest.map(|id| id.to_string()).collect();
        let warning = (!left.is_empty()).then(|| {
            format!("a GGUF has room for three stop tokens: llama.cpp will not stop at token {}", left.join(", "))
        });
        (Self { eos, eot, eom }, warning)
    }

    fn describe(&self, header: &mut GgufHeader, all: &[u32]) {
        for (key, id) in [("eos", self.eos), ("eot", self.eot), ("eom", self.eom)] {
            if let Some(id) = id {
                header.u32(&format!("tokenizer.ggml.{key}_token_id"), id);
            }
        }
        // Ollama's own engine reads a list.
        let all: Vec<i32> = all.iter().map(|id| *id as i32).collect();
        header.i32s("tokenizer.ggml.eos_token_ids", &all);
    }
}

fn write_tensors(
    file: &mut File,
    weights: &Weights,
    kind: GgufType,
    parameters: &[Parameter],
    progress: &mut impl FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    let longest = parameters.iter().map(|parameter| parameter.spec.len()).max().unwrap_or(0).min(PIECE);
    let mut values = room::zeroed(longest, "a piece of the weights")?;
    let mut bytes = room::zeroed(longest * size_of::<f32>(), "a piece of the file")?;
    for (done, parameter) in parameters.iter().enumerate() {
        progress(done, parameters.len())?;
        let (length, kind, offset) = (parameter.spec.len(), kind.of(parameter), parameter.kind.gguf_offset());
        for first in (0..length).step_by(PIECE) {
            let values = &mut values[..PIECE.min(length - first)];
            weights.read_part(parameter, first, values)?;
            if offset != 0.0 {
                values.iter_mut().for_each(|x| *x += offset);
            }
            kind.check_range(&parameter.spec.name, first, values)?;
            let bytes = &mut bytes[..kind.encoding().size_of(values.len())];
            kind.encode(values, bytes);
            file.write_all(bytes).context(|| "the disk refuses")?;
        }
        let written = kind.encoding().size_of(length);
        file.write_all(&[0; 32][..padding(written)]).context(|| "the disk refuses")?;
    }
    progress(parameters.len(), parameters.len())
}
