//! How much memory the host has left, asked before much of it is taken: sizes that come from a file or a flag are refused with
//! an error where they cannot be had.

use std::fs::read_to_string;

use super::allocator::asking;
use super::out_of_memory::OutOfMemory;
use crate::error::{Error, Result};

/// What is taken without asking.
const FREE_BYTES: u64 = 64 << 20;

/// Bytes that this process can still take: the least of what the machine, its container and the process's own limit have
/// left. None where nobody tells.
pub fn available() -> Option<u64> {
    let file = |path: &str| read_to_string(path).ok();
    let machine = file("/proc/meminfo").and_then(|text| machine_room(&text));
    let address_space = file("/proc/self/limits")
        .zip(file("/proc/self/status"))
        .and_then(|(limits, status)| address_room(&limits, &status));
    let group = |name: &str| file(&format!("/sys/fs/cgroup/memory.{name}"));
    let container = group("max").zip(group("current")).zip(group("stat"));
    let container = container.and_then(|((max, current), stat)| container_room(&max, &current, &stat));
    [machine, address_space, container].into_iter().flatten().min()
}

/// An error, unless the host has `bytes` to spare. `doing` is what they are for.
///
/// # Errors
/// Of kind [`Kind::OutOfMemory`](crate::error::Kind::OutOfMemory).
pub fn require(bytes: u64, doing: &str) -> Result<()> {
    if bytes <= FREE_BYTES {
        return Ok(());
    }
    available().map_or(Ok(()), |free| require_of(bytes, free, doing))
}

/// [`require`], where `free` bytes are left.
pub(super) fn require_of(bytes: u64, free: u64, doing: &str) -> Result<()> {
    if bytes > free { Err(short(bytes, free, doing)) } else { Ok(()) }
}

/// `len` zeros. `doing` is what they are for.
///
/// # Errors
/// Of kind [`Kind::OutOfMemory`](crate::error::Kind::OutOfMemory).
pub fn zeroed<T: bytemuck::Zeroable>(len: usize, doing: &str) -> Result<Vec<T>> {
    let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
    require(bytes, doing)?;
    let short = |()| short(bytes, available().unwrap_or(0), doing);
    // The layout of more bytes than there can be is a panic there.
    if isize::try_from(bytes).is_err() {
        Err(short(()))
    } else {
        asking(|| bytemuck::try_zeroed_vec(len)).map_err(short)
    }
}

fn short(wanted: u64, free: u64, doing: &str) -> Error {
    let [wanted, free] = [wanted, free].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let machine = read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    let total = machine.map_or(free, |bytes| bytes as usize);
    let error =
        OutOfMemory { wanted: Some(wanted), free, total }.while_doing(&format!("there is no memory for {doing}"));
    error.hint(
        "close other programs, or take a machine with more memory; `ulimit -v` shows whether this process is limited",
    )
}

/// From `/proc/meminfo`: what can be had without and with swapping.
fn machine_room(text: &str) -> Option<u64> {
    Some(kilobytes(text, "MemAvailable:")? + kilobytes(text, "SwapFree:").unwrap_or(0))
}

/// From `/proc/self/limits` and `/proc/self/status`.
fn address_room(limits: &str, status: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kilobytes(status, "VmSize:")?))
}

/// From `memory.max`, `memory.current` and `memory.stat`: cached files are given back when memory is needed.
fn container_room(max: &str, current: &str, stat: &str) -> Option<u64> {
    let limit: u64 = max.trim().parse().ok()?;
    let used: u64 = current.trim().parse().ok()?;
    let of = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let cached = of("inactive_file ").unwrap_or(0) + of("active_file ").unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// The bytes of the line `name 123 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_the_system_tells_is_understood() {
        let memory = "MemTotal:       24575784 kB\nMemAvailable:    1000 kB\nSwapTotal: 5 kB\nSwapFree:  24 kB\n";
        assert_eq!(machine_room(memory), Some(1024 << 10));
        let limits =
            "Limit      Soft Limit   Hard Limit   Units\nMax address space         2048000       unlimited  bytes\n";
        assert_eq!(address_room(limits, "VmPeak: 7 kB\nVmSize:\t  1000 kB\n"), Some(1_024_000));
        assert_eq!(address_room(limits, "VmSize:\t 9000000 kB\n"), Some(0));
        assert_eq!(address_room("Max address space  unlimited  unlimited  bytes\n", "VmSize: 1 kB"), None);
        assert_eq!(container_room("1000\n", "900\n", "anon 500\ninactive_file 300\nactive_file 100\n"), Some(500));
        assert_eq!(container_room("max\n", "900\n", ""), None);
    }

    #[test]
    fn what_cannot_be_had_is_refused_and_what_can_is_given() {
        let error = zeroed::<u8>(1 << 50, "a test").unwrap_err();
        assert_eq!(error.kind(), Kind::OutOfMemory);
        assert!(error.report().starts_with("error: there is no memory for a test\ncaused by: out of memory"));
        assert!(zeroed::<u64>(usize::MAX, "a test").is_err());
        assert_eq!(zeroed::<u8>(3, "a test").unwrap(), [0; 3]);
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
