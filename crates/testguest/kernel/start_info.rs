//! What QEMU tells a PVH kernel: the command line and the memory map.

use core::ffi::{CStr, c_char};

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

/// `struct hvm_start_info` of Xen's public headers.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    // From version 1 on:
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `struct hvm_memmap_table_entry`.
#[repr(C)]
struct Region {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The command line, empty if there is none or it is not UTF-8.
///
/// # Safety
/// `address` is what the boot loader handed over, and that memory has not been written since.
pub unsafe fn command_line(address: u32) -> &'static str {
    // SAFETY: the caller's promise; the protocol has the text end with a zero byte.
    unsafe {
        match info(address) {
            Some(info) if info.command_line != 0 => {
                CStr::from_ptr(info.command_line as *const c_char).to_str().unwrap_or("")
            }
            _ => "",
        }
    }
}

/// End of the memory that begins at 1 MiB; `None` if the loader does not say.
///
/// # Safety
/// As for [`command_line`].
pub unsafe fn memory_ends_at(address: u32) -> Option<u64> {
    // SAFETY: the caller's promise, and the map is asked for only where this version has one.
    unsafe {
        let info = info(address).filter(|info| info.version >= 1 && info.memory_map != 0)?;
        let entries = info.memory_map_entries as usize;
        let regions = core::slice::from_raw_parts(info.memory_map as *const Region, entries);
        let holds_image = |r: &&Region| {
            r.kind == RAM && r.address <= 1 << 20 && r.address.saturating_add(r.size) > 1 << 20
        };
        regions.iter().find(holds_image).map(|r| r.address + r.size)
    }
}

/// # Safety
/// As for [`command_line`].
unsafe fn info(address: u32) -> Option<&'static StartInfo> {
    // SAFETY: the caller's promise; the protocol aligns the structure.
    let info = unsafe { (address as usize as *const StartInfo).as_ref() }?;
    (info.magic == MAGIC).then_some(info)
}
