//! What several commands begin with: the device, the model, the tokenizer, the examples.

use rayon::prelude::*;

use crate::batch::Example;
use crate::chat::tokenizer::{ChatTokenizer, LossOn};
use crate::cli::args::{DeviceArg, DtypeArg, GenerationArgs, ModelArgs, OverlongArg, RowArgs};
use crate::cuda;
use crate::data::length::{MaxLength, Overlong};
use crate::data::rows::{Row, RowContent, RowOptions, row_warnings};
use crate::data::tools::load_tools;
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, Sampling};
use crate::host;
use crate::io::source::{ModelSource, resolve_model};
use crate::model::gemma3::Gemma3;
use crate::model::gemma3::config::Gemma3Config;
use crate::model::gemma3::table::{parameter_count, parameter_specs};
use crate::model::generation_config::GenerationConfig;

/// A model's small files: everything but the weights.
pub struct Checkpoint {
    pub source: ModelSource,
    pub config: Gemma3Config,
    pub generation_config: GenerationConfig,
    pub tokenizer: ChatTokenizer,
}

impl Checkpoint {
    /// Finds the model (downloading it if need be) and reads its configs and tokenizer.
    pub fn open(model: &str) -> Result<Self> {
        let source = resolve_model(model)?;
        let config = source.load_config()?;
        let generation_config = GenerationConfig::load(source.folder(), &config)?;
        let tokenizer = ChatTokenizer::load(source.folder())?.with_model_vocab(config.vocab_size);
        Ok(Self { source, config, generation_config, tokenizer })
    }

    /// Reads the weights: f32 masters on the device, and what ops compute in beside them.
    pub fn load(&self, (device, dtype): &(Device, DType)) -> Result<Gemma3> {
        let len = parameter_count(&parameter_specs(&self.config));
        let mut weights = Tensor::empty(&device.of(Purpose::Weights), &[len], DType::F32)?;
        weights.fill_with::<f32>(|values| self.source.load_into(&self.config, values))?;
        Gemma3::new(self.config.clone(), weights)?.computed_in(*dtype)
    }

    /// How this checkpoint generates under the flags.
    pub fn generate_options(&self, args: &GenerationArgs) -> GenerateOptions {
        let config = &self.generation_config;
        let sampling = args.do_sample.then_some(Sampling {
            temperature: config.temperature,
            top_k: config.top_k,
            top_p: config.top_p,
            seed: args.seed,
        });
        GenerateOptions { max_new_tokens: args.max_new_tokens as usize, stop: config.eos_token_id.clone(), sampling }
    }

    /// Tokenizes rows, marks what is scored and applies `--max-length`; what that changed goes to stderr.
    pub fn examples(&self, rows: &[Row], args: &RowArgs, name: &str) -> Result<Vec<Example>> {
        let loss = loss_on(args)?;
        row_warnings(rows).iter().for_each(|w| eprintln!("warning: {w}"));
        let example = |row| self.tokenizer.example(row, loss.unwrap_or_else(|| default_loss(row)));
        let examples: Vec<Example> = rows.par_iter().map(example).collect::<Result<_>>()?;
        let policy = match args.overlong {
            OverlongArg::Error => Overlong::Refuse,
            OverlongArg::Truncate => Overlong::Truncate,
            OverlongArg::Drop => Overlong::Drop,
        };
        let limit = MaxLength { max_length: args.max_length as usize, policy };
        let (examples, report) = limit.apply(examples)?;
        if let Some(line) = report {
            eprintln!("{name}: {line}");
        }
        Ok(examples)
    }
}

/// What is scored when no flag says it: as in TRL, the completion of a prompt/completion row and all of any other.
pub fn default_loss(row: &Row) -> LossOn {
    match &row.content {
        RowContent::Chat { prompt_messages: Some(_), .. } | RowContent::Text { prompt: Some(_), .. } => {
            LossOn::Completion
        }
        _ => LossOn::All,
    }
}

/// What the flags say to score; None: it depends on the row.
pub fn loss_on(args: &RowArgs) -> Result<Option<LossOn>> {
    match (args.completion_only_loss, args.assistant_only_loss) {
        (Some(true), true) => {
            Err(Error::usage("`--completion-only-loss` and `--assistant-only-loss` exclude each other"))
        }
        (_, true) => Ok(Some(LossOn::Assistant)),
        (Some(true), _) => Ok(Some(LossOn::Completion)),
        (Some(false), _) => Ok(Some(LossOn::All)),
        (None, _) => Ok(None),
    }
}

/// `--tools` and `--system`; warnings about the tools go to stderr.
pub fn row_options(args: &RowArgs) -> Result<RowOptions> {
    let tools = match &args.tools {
        None => None,
        Some(path) => {
            let (tools, warnings) = load_tools(path)?;
            warnings.iter().for_each(|w| eprintln!("warning: {w}"));
            Some(tools)
        }
    };
    Ok(RowOptions { tools, system: args.system.clone() })
}

/// The device that the flags ask for, and what to compute in; an error when this build or machine does not have it.
pub fn device(args: &ModelArgs) -> Result<(Device, DType)> {
    let device = match args.device {
        DeviceArg::Auto if cuda::missing().is_none() => cuda::device()?,
        DeviceArg::Auto | DeviceArg::Cpu => host::device(),
        DeviceArg::Cuda => cuda::device()?,
        DeviceArg::Emulated => emulated()?,
    };
    let dtype = match args.dtype {
        DtypeArg::Auto if device.driver().is_host() => DType::F32,
        DtypeArg::Auto | DtypeArg::Bf16 => DType::Bf16,
        DtypeArg::F32 => DType::F32,
    };
    Ok((device, dtype))
}

#[cfg(engine_emulated)]
fn emulated() -> Result<Device> {
    crate::emulated::device()
}

#[cfg(not(engine_emulated))]
fn emulated() -> Result<Device> {
    Err(crate::err!("this build has no `emulated` device: it found no C++20 compiler (g++ or clang++)")
        .hint("use `--device cpu`"))
}
