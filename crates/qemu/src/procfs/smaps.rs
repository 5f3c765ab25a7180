//! The memory map of a process with the sizes of its parts, from `/proc/PID/smaps`.

use std::fs;

use landfall_core::units::Bytes;

use super::{ProcError, process_file, read_error};

/// A readable and writable mapping of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// Its length.
    pub size: Bytes,
    /// How much of it is in memory or in swap. Pages of hugetlbfs are counted as well.
    pub resident: Bytes,
}

/// Returns the writable mappings of a process, in ascending order of their addresses.
///
/// The kernel walks all page tables of the process for this: 4 ms for a guest of 256 MiB.
///
/// # Errors
/// [`ProcError::Ended`], [`ProcError::Read`].
pub fn read_writable_mappings(pid: i32) -> Result<Vec<Mapping>, ProcError> {
    let path = process_file(pid, "smaps");
    let smaps = fs::read_to_string(&path).map_err(|source| read_error(&path, source))?;
    Ok(writable_mappings(&smaps))
}

/// Reads the mappings that can be read and written, and not executed, of a `smaps` file. Executable
/// ones are left out because TCG's buffer of translated code can be larger than the guest.
pub fn writable_mappings(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        if !first.ends_with(':') {
            found.extend(current.take());
            let start =
                first.split_once('-').and_then(|(start, _)| u64::from_str_radix(start, 16).ok());
            let start = start.filter(|_| second.starts_with("rw-"));
            current = start.map(|start| Mapping { start, ..Mapping::default() });
            continue;
        }
        let (Some(mapping), Ok(kib)) = (&mut current, second.parse::<u64>()) else { continue };
        let bytes = kib.saturating_mul(1024);
        match first {
            "Size:" => mapping.size = Bytes(bytes),
            // Pages of hugetlbfs are not in Rss.
            "Rss:" | "Swap:" | "Private_Hugetlb:" | "Shared_Hugetlb:" => {
                mapping.resident = Bytes(mapping.resident.0.saturating_add(bytes));
            }
            _ => {}
        }
    }
    found.extend(current);
    found
}
