//! AF_XDP: one memory for all devices of a worker, four rings a socket, and [`sluice_run::io::PacketIo`] on top.
//!
//! # Who owns a buffer
//!
//! The memory (UMEM) is cut into equal buffers. At every moment a buffer is in exactly one place: in the list of free
//! ones, in a fill ring (lent to the kernel for receiving), in a receive ring (on its way to us), in a
//! [`sluice_run::io::Frame`] (ours to read and write), in a transmit ring, or in a completion ring. A `Frame` cannot be
//! copied, making one takes a buffer out of a ring or the free list, and using one up puts it back. So no two `Frame`s name
//! the same buffer, and the kernel writes to none that we hold: that is what every `unsafe` block here rests on.
//!
//! # Why own rings
//!
//! The rings are read and written here, and not by the xsk-rs crate: it cannot take memory of ours (so no transparent huge pages)
//! and knows no busy polling, and it needs clang, LLVM, libelf, libpcap and m4 to build, which nothing else of the product does.
//! `scripts/bench-xsk.sh` runs the same loop over both: over virtual cables, where the kernel dominates, ours moves 1.1 times the
//! packets; in user space ours spends more instructions on each, because it also keeps the books of the section above.

mod buffers;
mod memory;
mod packet;
mod ring;
mod socket;
mod sys;

pub mod io;
pub mod rehearsal;

pub use memory::{Huge, no_huge_pages};
pub use packet::LinkSocket;
pub use socket::{Copy, Statistics};
pub use sys::interface_index;
