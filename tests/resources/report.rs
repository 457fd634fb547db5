//! Reads what nvcc leaves behind: ptxas's report (`-Xptxas -v`) and the PTX.

use std::collections::BTreeMap;

use crate::chip::Chip;

/// What a kernel takes on one chip. Bytes, but for `block` (threads) and `registers` (of a thread).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The source's stem: `rmsnorm`.
    pub file: String,
    /// `rmsnorm_forward_kernel<bf16, 8>`
    pub name: String,
    pub chip: Chip,
    /// From `__launch_bounds__`; `None` where a kernel has none.
    pub block: Option<u32>,
    pub registers: u32,
    pub static_shared: u32,
    /// From `DYNAMIC_SHARED`; `None` where a kernel uses some and does not say how much.
    pub dynamic_shared: Option<u32>,
    pub stack: u32,
    /// Stores and loads.
    pub spills: u32,
}

impl Kernel {
    pub fn shared(&self) -> u32 {
        self.static_shared + self.dynamic_shared.unwrap_or(0)
    }

    /// What is wrong with it, whatever the table says.
    pub fn faults(&self) -> Vec<String> {
        let Self { file, name, chip, .. } = self;
        let limit = chip.shared_of_a_block();
        let mut faults = Vec::new();
        if self.spills > 0 {
            faults.push(format!("spills registers: {} bytes of stores and loads", self.spills));
        }
        if self.shared() > limit {
            faults.push(format!("asks for {} bytes of shared memory; a block has {limit}", self.shared()));
        }
        match self.block {
            None => faults.push("has no __launch_bounds__: ptxas does not know its block".to_string()),
            Some(block) if chip.warps(block, self.registers, self.shared()) == 0 && self.shared() <= limit => {
                faults.push(format!("{block} threads of {} registers do not fit", self.registers));
            }
            Some(_) => {}
        }
        if self.dynamic_shared.is_none() {
            faults.push("uses dynamic shared memory without saying how much: DYNAMIC_SHARED(type, name, bytes)".into());
        }
        faults.into_iter().map(|fault| format!("{file}.cu: `{name}` on {}: {fault}", chip.name())).collect()
    }
}

/// What the PTX says of an entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Entry {
    pub block: Option<u32>,
    /// Bytes, and whether any are used.
    pub dynamic_shared: (Option<u32>, bool),
    /// Bytes that it does not take of a block's shared memory, whatever the chip has.
    pub shared_but: Option<u32>,
}

/// The entries of a PTX file by mangled name.
pub fn entries(ptx: &str) -> BTreeMap<String, Entry> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut current = None;
    for line in ptx.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once(".entry ") {
            let name = rest.split(['(', ' ']).next().unwrap().to_string();
            entries.insert(name.clone(), Entry::default());
            current = Some(name);
        } else if line.contains(".func ") {
            current = None;
        }
        let Some(entry) = current.as_ref().and_then(|name| entries.get_mut(name)) else { continue };
        if let Some(sizes) = line.strip_prefix(".maxntid ") {
            entry.block = Some(sizes.split(',').map(|size| size.trim().parse::<u32>().unwrap()).product());
        } else if let Some(bytes) = line.strip_prefix("// dynamic_shared ") {
            let bytes: u32 = bytes.trim().parse().expect("a number of bytes");
            let declared = &mut entry.dynamic_shared.0;
            *declared = Some(declared.unwrap_or(0).max(bytes));
        } else if let Some(bytes) = line.strip_prefix("// dynamic_shared_rest ") {
            entry.shared_but = Some(bytes.trim().parse().expect("a number of bytes"));
        } else if line.contains("engine_dynamic_shared") && !line.starts_with(".extern") {
            entry.dynamic_shared.1 = true;
        }
    }
    entries
}

/// What ptxas says of a function.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Usage {
    pub registers: u32,
    pub static_shared: u32,
    pub stack: u32,
    pub spills: u32,
    pub is_entry: bool,
}

/// The functions of a report of ptxas, by chip and mangled name.
pub fn usages(said: &str) -> BTreeMap<(Chip, String), Usage> {
    let mut usages: BTreeMap<(Chip, String), Usage> = BTreeMap::new();
    let (mut chip, mut entry, mut function) = (None, String::new(), String::new());
    for line in said.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut parts = rest.split('\'');
            entry = parts.next().unwrap().to_string();
            let name = parts.nth(1).expect("a chip");
            chip = Some(Chip::named(name).unwrap_or_else(|| panic!("a report for `{name}`: tests/resources/chip.rs")));
            usages.entry((chip.unwrap(), entry.clone())).or_default().is_entry = true;
        } else if let Some(name) = line.split("Function properties for ").nth(1) {
            function = name.trim().to_string();
        } else if line.contains("bytes stack frame") {
            let chip = chip.expect("properties follow an entry");
            let usage = usages.entry((chip, function.clone())).or_default();
            usage.stack = usage.stack.max(before(line, "bytes stack frame"));
            usage.spills += before(line, "bytes spill stores") + before(line, "bytes spill loads");
        } else if line.contains(" registers") {
            let usage = usages.get_mut(&(chip.expect("a chip"), entry.clone())).expect("an entry");
            usage.registers = before(line, "registers");
            usage.static_shared = before(line, "bytes smem");
            usage.stack = usage.stack.max(before(line, "bytes cumulative stack size"));
        }
    }
    usages
}

/// The number before `words` in a line of ptxas; 0 when they are not in it.
fn before(line: &str, words: &str) -> u32 {
    let Some((start, _)) = line.split_once(words) else { return 0 };
    start.split_whitespace().last().and_then(|number| number.parse().ok()).expect("a number")
}

/// The name a reader knows: without namespaces, return type and arguments.
pub fn short_name(demangled: &str) -> String {
    let text = demangled.trim().replace("(anonymous namespace)::", "").replace("> >", ">>");
    let text = text.replace("(bool)0", "false").replace("(bool)1", "true");
    let text = text.strip_prefix("void ").unwrap_or(&text);
    let mut short = String::new();
    let mut depth = 0;
    for c in text.chars() {
        depth += i32::from(c == '<') - i32::from(c == '>');
        if c == '(' && depth == 0 {
            break; // the arguments
        }
        short.push(c);
        let word = short.rfind(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').map_or(0, |before| before + 1);
        if short.ends_with("::") {
            short.truncate(word);
        } else if c == 'u' && short[word..].starts_with(|c: char| c.is_ascii_digit()) {
            short.pop(); // 8u is 8
        }
    }
    short
}

#[test]
fn names_are_those_of_the_source() {
    for (demangled, name) in [
        ("engine_cuda::(anonymous namespace)::rmsnorm_weight_kernel(float*, float const*)", "rmsnorm_weight_kernel"),
        ("void engine_cuda::(anonymous namespace)::k<engine_cuda::bf16, 8u>(engine_cuda::bf16*, int)", "k<bf16, 8>"),
        (
            "void engine_cuda::(anonymous namespace)::k<engine_cuda::a::S<float, 8u>, Out<int> >()",
            "k<S<float, 8>, Out<int>>",
        ),
        ("void engine_cuda::(anonymous namespace)::k2u<float, (bool)1, 64>(void (*)(int))", "k2u<float, true, 64>"),
    ] {
        assert_eq!(short_name(demangled), name);
    }
}

#[test]
fn a_report_is_read_whole() {
    let said = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k1' for 'sm_90a'
ptxas info    : Function properties for k1
    32 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 36 registers, used 1 barriers, 48 bytes cumulative stack size, 320 bytes smem
ptxas info    : Function properties for slow_path
    0 bytes stack frame, 0 bytes spill stores, 12 bytes spill loads
ptxas info    : Compiling entry function 'k1' for 'sm_80'
ptxas info    : Function properties for k1
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 0 barriers, 408 bytes cmem[0]
";
    let usages = usages(said);
    let usage = |chip, name: &str| usages[&(chip, name.to_string())].clone();
    let entry = Usage { registers: 36, static_shared: 320, stack: 48, spills: 12, is_entry: true };
    assert_eq!(usage(Chip::Sm90a, "k1"), entry);
    assert_eq!(usage(Chip::Sm80, "k1"), Usage { registers: 30, is_entry: true, ..Usage::default() });
    assert_eq!(usage(Chip::Sm90a, "slow_path").spills, 12);
    assert!(!usage(Chip::Sm90a, "slow_path").is_entry);
}

#[test]
fn blocks_and_dynamic_shared_memory_are_read_from_the_ptx() {
    let ptx = "\
.extern .shared .align 16 .b8 engine_dynamic_shared[];
.entry k1(
    .param .u64 p
)
.maxntid 256, 2, 1
{
    // dynamic_shared 65536
    mov.b32 %r1, engine_dynamic_shared;
}
.func f()
{
    mov.b32 %r1, engine_dynamic_shared;
}
.visible .entry k2()
.maxntid 128
{
    mov.b32 %r1, engine_dynamic_shared;
}
.entry k3() { ret; }
.entry k4()
{
    // dynamic_shared_rest 1024
    mov.b32 %r1, engine_dynamic_shared;
}
";
    let entries = entries(ptx);
    assert_eq!(entries["k1"], Entry { block: Some(512), dynamic_shared: (Some(65536), true), shared_but: None });
    assert_eq!(entries["k2"], Entry { block: Some(128), dynamic_shared: (None, true), shared_but: None });
    assert_eq!(entries["k3"], Entry::default());
    assert_eq!(entries["k4"], Entry { block: None, dynamic_shared: (None, true), shared_but: Some(1024) });
}

#[test]
fn spills_and_too_much_shared_memory_are_faults() {
    let (file, name) = ("rmsnorm".to_string(), "k<bf16>".to_string());
    let kernel = Kernel {
        file,
        name,
        chip: Chip::Sm80,
        block: Some(256),
        registers: 64,
        static_shared: 1024,
        dynamic_shared: Some(162 * 1024),
        stack: 0,
        spills: 0,
    };
    assert!(kernel.faults().is_empty());
    let fault = |kernel: Kernel, words: &str| {
        let faults = kernel.faults();
        assert!(faults.len() == 1 && faults[0].contains(words), "{faults:?}");
    };
    fault(Kernel { spills: 4, ..kernel.clone() }, "rmsnorm.cu: `k<bf16>` on sm_80: spills registers: 4 bytes");
    fault(
        Kernel { static_shared: 1028, ..kernel.clone() },
        "asks for 166916 bytes of shared memory; a block has 166912",
    );
    // What fits on an A100 need not fit on an RTX 3090, an L4 or an RTX 5090.
    fault(
        Kernel { chip: Chip::Sm86, static_shared: 0, dynamic_shared: Some(99 * 1024 + 4), ..kernel.clone() },
        "on sm_86: asks for 101380 bytes of shared memory; a block has 101376",
    );
    fault(Kernel { dynamic_shared: None, ..kernel.clone() }, "without saying how much");
    fault(Kernel { block: None, ..kernel.clone() }, "has no __launch_bounds__");
    fault(Kernel { registers: 255, block: Some(512), ..kernel }, "512 threads of 255 registers do not fit");
}
