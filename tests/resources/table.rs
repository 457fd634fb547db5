//! The table `kernels/resources.toml`: read, written, compared.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Deserialize;

use crate::report::Kernel;

const HEAD: &str = "\
# What each instance of a kernel takes of a chip, as ptxas reports it. `cargo test --test resources` compares; to write
# this file anew: ENGINE_UPDATE_RESOURCES=1 cargo test --release --test resources
#
# block: threads, from __launch_bounds__. registers: of a thread. static_shared, dynamic_shared (the most: DYNAMIC_SHARED),
# stack: bytes. spills: bytes of stores and loads; more than 0 is an error, as is more shared memory than a block of the
# chip has (sm_86, sm_120: 101376 bytes). occupancy: warps that an SM holds at once, of those that it could (the formula and
# its source: tests/resources/chip.rs). sm_86 stands for sm_89, too: the machine code is the same.
";

/// File, kernel, chip.
type Rows = BTreeMap<String, BTreeMap<String, BTreeMap<String, Row>>>;

#[derive(Debug, Deserialize, PartialEq)]
pub struct Table {
    /// The version that gives these numbers.
    pub nvcc: String,
    #[serde(flatten)]
    rows: Rows,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Row {
    block: u32,
    registers: u32,
    static_shared: u32,
    dynamic_shared: u32,
    stack: u32,
    spills: u32,
    occupancy: String,
}

impl Table {
    /// Kernels must have no faults.
    pub fn new(nvcc: String, kernels: &[Kernel]) -> Self {
        let mut rows = Rows::new();
        for kernel in kernels {
            let block = kernel.block.expect("launch bounds");
            let warps = kernel.chip.warps(block, kernel.registers, kernel.shared());
            let row = Row {
                block,
                registers: kernel.registers,
                static_shared: kernel.static_shared,
                dynamic_shared: kernel.dynamic_shared.expect("a size"),
                stack: kernel.stack,
                spills: kernel.spills,
                occupancy: format!("{warps}/{}", kernel.chip.most_warps()),
            };
            let chips = rows.entry(kernel.file.clone()).or_default().entry(kernel.name.clone()).or_default();
            let twice = chips.insert(kernel.chip.name().to_string(), row);
            assert!(twice.is_none(), "{}.cu has two kernels `{}`", kernel.file, kernel.name);
        }
        Self { nvcc, rows }
    }

    /// The rows in order: ``rmsnorm.cu: `rmsnorm_forward_kernel<bf16, 8>` on sm_80``, and its numbers.
    fn lines(&self) -> BTreeMap<String, String> {
        let mut lines = BTreeMap::new();
        for (file, kernels) in &self.rows {
            for (name, chips) in kernels {
                lines.extend(
                    chips.iter().map(|(chip, row)| (format!("{file}.cu: `{name}` on {chip}"), row.to_string())),
                );
            }
        }
        lines
    }

    /// What differs from the table that was expected, in sentences.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let (found, expected) = (self.lines(), expected.lines());
        let mut differences = Vec::new();
        for (kernel, row) in &found {
            match expected.get(kernel) {
                None => differences.push(format!("{kernel} is not in the table: {row}")),
                Some(old) if old != row => {
                    differences.push(format!("{kernel}:\n    table  {old}\n    ptxas  {row}"));
                }
                Some(_) => {}
            }
        }
        let gone = expected.keys().filter(|kernel| !found.contains_key(*kernel));
        differences.extend(gone.map(|kernel| format!("{kernel} is in the table, but there is no such kernel")));
        differences
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { block, registers, static_shared, dynamic_shared, stack, spills, occupancy } = self;
        write!(f, "{{ block = {block}, registers = {registers}, static_shared = {static_shared}, ")?;
        write!(
            f,
            "dynamic_shared = {dynamic_shared}, stack = {stack}, spills = {spills}, occupancy = \"{occupancy}\" }}"
        )
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}\nnvcc = \"{}\"", self.nvcc)?;
        for (file, kernels) in &self.rows {
            for (name, chips) in kernels {
                writeln!(f, "\n[{file}.\"{name}\"]")?;
                for (chip, row) in chips {
                    writeln!(f, "{chip:6} = {row}")?;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let kernel = |name: &str, registers| Kernel {
        file: "rmsnorm".into(),
        name: name.into(),
        chip: crate::chip::Chip::Sm90a,
        block: Some(256),
        registers,
        static_shared: 8,
        dynamic_shared: Some(0),
        stack: 16,
        spills: 0,
    };
    let table = Table::new("13.0.88".into(), &[kernel("k<bf16, 8>", 32), kernel("old", 40)]);
    let read: Table = toml::from_str(&table.to_string()).unwrap();
    assert_eq!(read, table);
    assert!(table.differences(&read).is_empty());
    let now = Table::new("13.0.88".into(), &[kernel("k<bf16, 8>", 72), kernel("new", 40)]);
    let differences = now.differences(&read).join("\n");
    assert!(differences.contains("registers = 72") && differences.contains("occupancy = \"24/64\""), "{differences}");
    assert!(differences.contains("`new` on sm_90a is not in the table"), "{differences}");
    assert!(differences.contains("`old` on sm_90a is in the table, but there is no such kernel"), "{differences}");
}
