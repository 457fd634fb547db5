//! Headers of safetensors files; those that pass are read as a model's weights.
#![no_main]

use engine::autograd::ParamSpec;
use engine::io::safetensors::{Header, check_model, read_model};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Header::parse(data, data.len() as u64);
    // The same with the right length in front, and room for up to 256 bytes of data behind.
    let Some((&room, text)) = data.split_first() else { return };
    let header = [&(text.len() as u64).to_le_bytes()[..], text].concat();
    if Header::parse(&header, (header.len() + usize::from(room)) as u64).is_ok() {
        let bytes = [header, vec![room; room.into()]].concat();
        let path = engine_fuzz::file("model.safetensors", &bytes);
        let folder = path.parent().expect("a file is in a folder");
        let spec = |name: &str, shape: &[usize]| ParamSpec { name: name.into(), shape: shape.into(), decay: true };
        let specs = [spec("a", &[2, 3]), spec("model.embed_tokens.weight", &[4, 2])];
        if read_model(folder, &specs, &mut [0.0; 14]).is_ok() {
            check_model(folder, &specs).expect("what can be read passes the check");
        }
    }
});
