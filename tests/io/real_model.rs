//! The real checkpoint: its GGUF imported against transformers' own conversion of it.

use std::path::{Path, PathBuf};

use engine::io::folder::Existing;
use engine::io::import::import_gguf;
use engine::io::manifest::MARKER;
use engine::io::safetensors::{SaveDtype, read_model};
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use engine::model::generation_config::GenerationConfig;

fn folder() -> PathBuf {
    std::env::var("ENGINE_TEST_MODEL").expect("ENGINE_TEST_MODEL").into()
}

fn load(folder: &Path, config: &Gemma3Config) -> Vec<f32> {
    let specs = parameter_specs(config);
    let mut out = vec![0.0; parameter_count(&specs)];
    read_model(folder, &specs, &mut out).unwrap();
    out
}

#[test]
#[ignore = "needs ENGINE_TEST_MODEL: a folder with the FunctionGemma checkpoint"]
fn the_real_checkpoint_loads() {
    let config = Gemma3Config::load(&folder()).unwrap();
    assert_eq!(load(&folder(), &config).len(), 268_098_176);
    assert_eq!(GenerationConfig::load(&folder(), &config).unwrap().eos_token_id, [1, 50, 106]);
}

#[test]
#[ignore = "needs ENGINE_TEST_MODEL: a folder with a GGUF, and as model.safetensors what transformers makes of it in bf16"]
fn an_imported_gguf_equals_the_conversion_by_transformers() {
    let mut entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let file = entries.find(|path| path.extension().is_some_and(|extension| extension == "gguf")).expect("a .gguf");
    let parent = tempfile::tempdir().unwrap();
    let output =
        import_gguf(&file, &folder(), &parent.path().join("out"), Existing::Refuse, SaveDtype::Bf16).unwrap().place;
    assert!(output.join(MARKER).exists());
    let config = Gemma3Config::load(&output).unwrap();
    let (ours, theirs) = (load(&output, &config), load(&folder(), &config));
    let mut start = 0;
    for spec in parameter_specs(&config) {
        for i in start..start + spec.len() {
            // bf16 numbers of one sign are in the order of their upper 16 bits: neighbours differ by 1.
            let [a, b] = [ours[i], theirs[i]].map(|x| i64::from(x.to_bits() >> 16));
            let same = ours[i] == theirs[i] || (ours[i] * theirs[i] > 0.0 && (a - b).abs() <= 1);
            assert!(same, "{} element {}: {} is not {}", spec.name, i - start, ours[i], theirs[i]);
        }
        start += spec.len();
    }
}
