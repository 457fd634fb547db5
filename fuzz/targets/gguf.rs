//! Headers of GGUF files; those that pass are opened, and every tensor is decoded.
#![no_main]

use engine::io::gguf::{GgufFile, check_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if check_header(data).is_err() {
        return;
    }
    let path = engine_fuzz::file("model.gguf", data);
    let file = GgufFile::open(&path).expect("the header has passed");
    let _ = file.config(path.parent().expect("a file is in a folder"));
    for name in file.tensor_names() {
        let elements = file.shape(name).expect("it is listed").iter().product();
        // Tensors lie in the file, and a byte of it is 2 numbers at most.
        assert!(elements <= 2 * data.len(), "{name}");
        let _ = file.read_tensor(name, &mut vec![0.0; elements]);
    }
});
