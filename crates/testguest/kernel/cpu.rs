//! Single instructions that Rust has no word for: ports, the time-stamp counter, halting.

use core::arch::{asm, x86_64::_rdtsc};

/// Writes a byte to an I/O port.
///
/// # Safety
/// A device may do anything on a write: the port must be one whose effect is known and wanted.
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// As for [`outb`]: reading may change the device.
pub unsafe fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: the caller's promise.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and nothing here sets CR4.TSD.
    unsafe { _rdtsc() }
}

/// Halts until the next interrupt has been served. Interrupts are off before and after.
pub fn halt_until_interrupt() {
    // SAFETY: the handlers that can run meanwhile save what they use; `sti` takes effect only after
    // `hlt` has begun, so no interrupt slips in between.
    unsafe { asm!("sti", "hlt", "cli") }
}

/// The end: this vCPU does nothing more.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: halting with interrupts off touches nothing.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
