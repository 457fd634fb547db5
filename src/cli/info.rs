//! `engine info`: what a model is, which devices there are, what this build can do.

use serde::Serialize;

use crate::cli::args::{InfoArgs, LogFormat};
use crate::cli::numbers::gigabytes;
use crate::cli::out::{print, result};
use crate::cuda;
use crate::device::room;
use crate::error::Result;
use crate::host::products::choice::Kernel;
use crate::host::search::bytes;
use crate::io::source::resolve_model;
use crate::model::gemma3::config::LayerType;
use crate::model::gemma3::table::{parameter_count, parameter_specs};

/// What there is.
#[derive(Serialize)]
struct Info {
    engine: &'static str,
    features: Vec<Feature>,
    cpu: Cpu,
    cuda: Gpu,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Model>,
}

/// What a build may leave out.
#[derive(Serialize)]
struct Feature {
    name: &'static str,
    /// Why it is missing; None: it is there.
    missing: Option<&'static str>,
}

#[derive(Serialize)]
struct Cpu {
    threads: usize,
    instructions: String,
    /// What bf16 products run on here.
    bf16_products: &'static str,
    /// What finds the likeliest token without all logits.
    likeliest_token: Option<&'static str>,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Gpu {
    name: Option<String>,
    /// Why there is none that can be used, and what to do.
    missing: Option<String>,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Model {
    folder: String,
    parameters: usize,
    tensors: usize,
    layers: usize,
    full_attention_layers: usize,
    sliding_window: usize,
    hidden_size: usize,
    intermediate_size: usize,
    attention_heads: usize,
    head_dim: usize,
    key_value_heads: usize,
    vocabulary: usize,
}

pub fn run(args: &InfoArgs) -> Result<()> {
    let info = Info {
        engine: env!("CARGO_PKG_VERSION"),
        features: features(),
        cpu: Cpu {
            threads: rayon::current_num_threads(),
            instructions: instruction_set(),
            bf16_products: Kernel::chosen().name(),
            likeliest_token: bytes::Kernel::fastest().map(bytes::Kernel::name),
            free_bytes: room::available(),
        },
        cuda: gpu(),
        model: args.model.as_deref().map(model).transpose()?,
    };
    match args.log_format {
        LogFormat::Json => result(&info),
        LogFormat::Text => print(&text(&info)),
    }
}

fn text(info: &Info) -> String {
    let free = |bytes: Option<u64>| bytes.map(|b| format!(", {} free", gigabytes(b as usize))).unwrap_or_default();
    let mut lines = vec![format!("engine    {}", info.engine)];
    for (i, Feature { name, missing }) in info.features.iter().enumerate() {
        let why = missing.map(|why| format!(": not in this build: {why}")).unwrap_or_default();
        lines.push(format!("{:<10}{name}{why}", if i == 0 { "features" } else { "" }));
    }
    let Cpu { threads, instructions, bf16_products, likeliest_token, free_bytes } = &info.cpu;
    lines.push(format!("devices   cpu ({threads} threads, {instructions}{})", free(*free_bytes)));
    let search = likeliest_token.unwrap_or("none, all logits are computed");
    lines.push(format!(
        "          products of bf16 on the cpu: {bf16_products}; search of the likeliest token: {search}"
    ));
    lines.push(match (&info.cuda.name, &info.cuda.missing) {
        (Some(name), _) => format!("          cuda ({name}{})", free(info.cuda.free_bytes)),
        (None, why) => format!("          cuda: {}", why.as_deref().unwrap_or("none")),
    });
    if cfg!(engine_emulated) {
        lines.push("          emulated (the kernels on the CPU, for tests)".to_owned());
    }
    lines.extend(info.model.iter().flat_map(model_lines));
    lines.join("\n") + "\n"
}

fn model_lines(model: &Model) -> [String; 4] {
    let Model { parameters, tensors, layers, full_attention_layers: full, sliding_window, .. } = model;
    let Model { hidden_size, intermediate_size, attention_heads, head_dim, key_value_heads, vocabulary, .. } = model;
    [
        format!("model     {}", model.folder),
        format!("          {parameters} parameters in {tensors} tensors"),
        format!("          {layers} layers ({full} with full attention, the others with a window of {sliding_window})"),
        format!(
            "          hidden {hidden_size}, intermediate {intermediate_size}, {attention_heads} heads of {head_dim} on \
             {key_value_heads} kv heads, vocabulary {vocabulary}"
        ),
    ]
}

fn model(name: &str) -> Result<Model> {
    let source = resolve_model(name)?;
    let c = source.load_config()?;
    let specs = parameter_specs(&c);
    Ok(Model {
        folder: source.folder().display().to_string(),
        parameters: parameter_count(&specs),
        tensors: specs.len(),
        layers: c.num_hidden_layers,
        full_attention_layers: c.layer_types.iter().filter(|kind| **kind == LayerType::FullAttention).count(),
        sliding_window: c.sliding_window,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        attention_heads: c.num_attention_heads,
        head_dim: c.head_dim,
        key_value_heads: c.num_key_value_heads,
        vocabulary: c.vocab_size,
    })
}

fn features() -> Vec<Feature> {
    let feature = |name, is_on: bool, why| Feature { name, missing: (!is_on).then_some(why) };
    vec![
        feature("hub", cfg!(feature = "hub"), "it was built without the feature `hub`"),
        feature("parquet", cfg!(feature = "parquet"), "it was built without the feature `parquet`"),
        feature("cuda kernels", cfg!(engine_cuda), "its build found no nvcc (scripts/install-cuda-compiler gets one)"),
    ]
}

fn gpu() -> Gpu {
    match cuda::device() {
        Ok(device) => {
            Gpu { name: Some(device.driver().name()), missing: None, free_bytes: device.driver().free_bytes() }
        }
        Err(error) => {
            let hint = error.advice().map(|hint| format!("; {hint}")).unwrap_or_default();
            Gpu { name: None, missing: Some(format!("{error}{hint}")), free_bytes: None }
        }
    }
}

/// What the vector code of this process runs on.
fn instruction_set() -> String {
    format!("{:?}", pulp::Arch::new()).split('(').next().unwrap_or_default().to_lowercase()
}
