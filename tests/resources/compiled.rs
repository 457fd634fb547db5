//! The kernels as the build compiled them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::report::{Entry, Kernel, entries, short_name, usages};

/// nvcc's version, and every kernel that it compiled, on each chip.
pub fn kernels() -> (String, Vec<Kernel>) {
    let list = fs::read_to_string(env!("ENGINE_CUDA_REPORTS")).expect("the build's list of reports");
    let (version, folders) = list.split_once('\n').expect("a version and folders");
    let kernels: Vec<Kernel> = folders.lines().flat_map(|folder| of_a_file(Path::new(folder))).collect();
    assert!(!kernels.is_empty(), "no kernels in {folders}");
    (version.to_string(), kernels)
}

/// The kernels in a folder of `build.rs`: `target/kernels/cuda/<file>-<hash>`.
fn of_a_file(folder: &Path) -> Vec<Kernel> {
    let file = folder.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap().0;
    let usages = usages(&fs::read_to_string(folder.join("said")).unwrap());
    let ptx = ["compute_80", "compute_90a"].map(|virtual_chip| {
        let text = fs::read_to_string(folder.join(format!("{file}.{virtual_chip}.ptx"))).unwrap();
        (virtual_chip, entries(&text))
    });
    let ptx = BTreeMap::<&str, BTreeMap<String, Entry>>::from(ptx);
    let names = demangled(usages.keys().map(|(_, name)| name.as_str()));
    let mut kernels = Vec::new();
    for ((chip, name), usage) in usages.iter().filter(|(_, usage)| usage.is_entry) {
        let entry = &ptx[chip.virtual_chip()][name];
        let (declared, used) = entry.dynamic_shared;
        let declared = declared.or(entry.shared_but.map(|own| chip.shared_of_a_block() - own));
        kernels.push(Kernel {
            file: file.to_string(),
            name: names[name.as_str()].clone(),
            chip: *chip,
            block: entry.block,
            registers: usage.registers,
            static_shared: usage.static_shared,
            dynamic_shared: declared.or((!used).then_some(0)),
            stack: usage.stack,
            spills: usage.spills,
        });
    }
    // Functions that were not inlined belong to all who call them: none of them may spill either.
    for ((chip, name), usage) in &usages {
        assert!(usage.is_entry || usage.spills == 0, "{file}.cu: {name} spills registers on {}", chip.name());
    }
    kernels
}

/// Names as the source has them, by mangled name. c++filt is there wherever nvcc can be: binutils, without which no
/// compiler links, has it.
fn demangled<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return BTreeMap::new();
    }
    let output = Command::new("c++filt").args(&names).output().expect("c++filt (binutils) runs");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), names.len(), "{text}");
    names.into_iter().zip(text.lines().map(short_name)).collect()
}
