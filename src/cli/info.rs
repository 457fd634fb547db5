//! `engine info`: what a model is, which devices there are, what this build can do.

use crate::cli::args::InfoArgs;
use crate::cli::out::print;
use crate::cuda;
use crate::error::Result;
use crate::io::source::resolve_model;
use crate::model::gemma3::config::LayerType;
use crate::model::gemma3::table::{parameter_count, parameter_specs};

pub fn run(args: &InfoArgs) -> Result<()> {
    print(&text(args)?)
}

fn text(args: &InfoArgs) -> Result<String> {
    let mut lines = vec![
        format!("engine    {}", env!("CARGO_PKG_VERSION")),
        format!("features  {}", features().join(", ")),
        format!("devices   cpu ({} threads, {})", rayon::current_num_threads(), instruction_set()),
    ];
    lines.push(match cuda::device() {
        Ok(device) => format!("          cuda ({})", device.driver().name()),
        Err(error) => format!("          cuda: {error}"),
    });
    if cfg!(engine_emulated) {
        lines.push("          emulated (the kernels on the CPU, for tests)".to_owned());
    }
    if let Some(model) = &args.model {
        lines.extend(model_lines(model)?);
    }
    Ok(lines.join("\n") + "\n")
}

fn model_lines(model: &str) -> Result<[String; 4]> {
    let source = resolve_model(model)?;
    let c = source.load_config()?;
    let full = c.layer_types.iter().filter(|kind| **kind == LayerType::FullAttention).count();
    let specs = parameter_specs(&c);
    Ok([
        format!("model     {}", source.folder().display()),
        format!("          {} parameters in {} tensors", parameter_count(&specs), specs.len()),
        format!(
            "          {} layers ({full} with full attention, the others with a window of {})",
            c.num_hidden_layers, c.sliding_window
        ),
        format!(
            "          hidden {}, intermediate {}, {} heads of {} on {} kv heads, vocabulary {}",
            c.hidden_size, c.intermediate_size, c.num_attention_heads, c.head_dim, c.num_key_value_heads, c.vocab_size
        ),
    ])
}

fn features() -> Vec<&'static str> {
    let all = [("hub", cfg!(feature = "hub")), ("parquet", cfg!(feature = "parquet"))];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

/// What the vector code of this process runs on.
fn instruction_set() -> String {
    format!("{:?}", pulp::Arch::new()).split('(').next().unwrap_or_default().to_lowercase()
}
