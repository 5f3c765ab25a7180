//! Reports over COM1: lines of text, and beats of one byte each.
//!
//! A beat is `0x80 | vcpu`. No byte of a line has that bit, so a beat may fall in the middle of a
//! line and needs no lock: a vCPU that is held by a throttle while it prints cannot hold up the
//! beats of the others.

use crate::cpu::{inb, outb};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

const DATA: u16 = 0x3f8;
const INTERRUPTS: u16 = DATA + 1;
const FIFO: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const MODEM_CONTROL: u16 = DATA + 4;
const STATUS: u16 = DATA + 5;

const RECEIVED: u8 = 0x01;
const CAN_SEND: u8 = 0x20;

static LINE_BEING_WRITTEN: AtomicBool = AtomicBool::new(false);

/// Sets the port up: 8 bits, FIFOs on, no interrupts.
pub fn set_up() {
    // SAFETY: the UART's own registers, with values of the 16550's data sheet.
    unsafe {
        outb(INTERRUPTS, 0);
        outb(LINE_CONTROL, 0x03);
        outb(FIFO, 0x07);
        outb(MODEM_CONTROL, 0x03);
    }
}

/// Reports that vCPU `vcpu` has finished a quantum of work.
pub fn beat(vcpu: usize) {
    send(0x80 | vcpu as u8);
}

/// Prints one line; lines of different vCPUs do not mix.
pub fn line(text: fmt::Arguments<'_>) {
    while LINE_BEING_WRITTEN.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    // `Port` never fails.
    let _ = Port.write_fmt(text);
    send(b'\n');
    LINE_BEING_WRITTEN.store(false, Ordering::Release);
}

/// A byte from the host, if one has come. For one vCPU only: two might take one byte for two.
pub fn received() -> Option<u8> {
    // SAFETY: the status has no side effect that matters here, and data is read only when there.
    unsafe { (inb(STATUS) & RECEIVED != 0).then(|| inb(DATA)) }
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            send(if byte.is_ascii() { byte } else { b'?' });
        }
        Ok(())
    }
}

/// Sends a byte. Waits while the host does not take any, but not endlessly: a host that has stopped
/// listening must not stop the guest.
fn send(byte: u8) {
    const PATIENCE: u32 = 100_000;
    // SAFETY: the UART's own registers.
    unsafe {
        for _ in 0..PATIENCE {
            if inb(STATUS) & CAN_SEND != 0 {
                break;
            }
            core::hint::spin_loop();
        }
        outb(DATA, byte);
    }
}
