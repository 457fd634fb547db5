//! What each kernel takes of a chip is what `kernels/resources.toml` says, and never too much.
//!
//! `ENGINE_UPDATE_RESOURCES=1 cargo test --release --test resources` writes the table anew.

mod chip;
#[cfg(engine_cuda)]
mod compiled;
mod report;
mod table;

#[cfg(engine_cuda)]
#[test]
fn kernels_take_what_the_table_says() {
    let (nvcc, kernels) = compiled::kernels();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/resources.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let expected: table::Table = toml::from_str(&text).unwrap();
    let update = std::env::var("ENGINE_UPDATE_RESOURCES").is_ok_and(|value| value == "1");
    if nvcc != expected.nvcc && !update {
        eprintln!("the table is that of nvcc {}; this is {nvcc}: nothing is compared", expected.nvcc);
        return;
    }
    let faults: Vec<String> = kernels.iter().flat_map(report::Kernel::faults).collect();
    assert!(faults.is_empty(), "kernels that no chip should run:\n{}", faults.join("\n"));
    let found = table::Table::new(nvcc, &kernels);
    if update {
        std::fs::write(&path, found.to_string()).unwrap();
        return;
    }
    let differences = found.differences(&expected);
    assert!(
        differences.is_empty(),
        "ptxas reports other numbers than kernels/resources.toml has:\n{}\n\nIf that is meant, write the table anew and \
         commit it: ENGINE_UPDATE_RESOURCES=1 cargo test --release --test resources",
        differences.join("\n")
    );
}

#[cfg(not(engine_cuda))]
#[test]
#[ignore = "needs nvcc: run scripts/install-cuda-compiler, and build again"]
fn kernels_take_what_the_table_says() {
    panic!("built without nvcc");
}
