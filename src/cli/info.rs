//! `engine info`: what a model is, which devices there are, what this build can do.

use crate::cli::args::InfoArgs;
use crate::cuda;
use crate::error::Result;
use crate::io::source::resolve_model;
use crate::model::gemma3::config::LayerType;
use crate::model::gemma3::table::{parameter_count, parameter_specs};

pub fn run(args: &InfoArgs) -> Result<()> {
    println!("engine    {}", env!("CARGO_PKG_VERSION"));
    println!("features  {}", features().join(", "));
    println!("devices   cpu ({} threads, {})", rayon::current_num_threads(), instruction_set());
    match cuda::device() {
        Ok(device) => println!("          cuda ({})", device.driver().name()),
        Err(error) => println!("          cuda: {error}"),
    }
    if cfg!(engine_emulated) {
        println!("          emulated (the kernels on the CPU, for tests)");
    }
    let Some(model) = &args.model else { return Ok(()) };
    let source = resolve_model(model)?;
    let c = source.load_config()?;
    let full = c.layer_types.iter().filter(|kind| **kind == LayerType::FullAttention).count();
    println!("model     {}", source.folder().display());
    println!("          {} parameters in {} tensors", parameter_count(&parameter_specs(&c)), parameter_specs(&c).len());
    println!(
        "          {} layers ({full} with full attention, the others with a window of {})",
        c.num_hidden_layers, c.sliding_window
    );
    println!(
        "          hidden {}, intermediate {}, {} heads of {} on {} kv heads, vocabulary {}",
        c.hidden_size, c.intermediate_size, c.num_attention_heads, c.head_dim, c.num_key_value_heads, c.vocab_size
    );
    Ok(())
}

fn features() -> Vec<&'static str> {
    let all = [("hub", cfg!(feature = "hub")), ("parquet", cfg!(feature = "parquet"))];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

/// What the vector code of this process runs on.
fn instruction_set() -> String {
    format!("{:?}", pulp::Arch::new()).split('(').next().unwrap_or_default().to_lowercase()
}
