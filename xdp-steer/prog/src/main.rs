//! The XDP program: ask `decide`, then redirect or pass. Plain `no_std` Rust; compiled to BPF by `prog/build`, see
//! `scripts/build-xdp.sh`. Nothing here may panic or call: the object has no one to call.
#![no_std]
#![allow(non_upper_case_globals, dead_code, unsafe_op_in_unsafe_fn)]

#[path = "../../abi/src/decide.rs"]
mod decide;
#[path = "../../abi/src/layout.rs"]
mod layout;

use core::{cell::UnsafeCell, ffi::c_void, mem::size_of};

use layout::{Block, Outcome, RuleKey};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// A map as the loader finds it in the section `maps`.
#[repr(C)]
pub struct MapDefinition {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    id: u32,
    pinning: u32,
}

#[repr(transparent)]
pub struct Map(UnsafeCell<MapDefinition>);
// SAFETY: the kernel replaces every reference to a map by the map itself; this memory is never read at run time.
unsafe impl Sync for Map {}

const fn map<K, V>(kind: u32, max_entries: u32, flags: u32) -> Map {
    Map(UnsafeCell::new(MapDefinition {
        kind,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries,
        flags,
        id: 0,
        pinning: 0,
    }))
}

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LPM_TRIE: u32 = 11;
const XSKMAP: u32 = 17;
/// Hashes and tries take memory as they grow.
const NO_PREALLOC: u32 = 1;

#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static ADDRESSES: Map = map::<[u32; 4], Block>(HASH, layout::MAX_RULES, NO_PREALLOC);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static PREFIXES: Map = map::<RuleKey, u32>(LPM_TRIE, layout::MAX_RULES, NO_PREALLOC);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static PORTS: Map = map::<u32, u32>(ARRAY, layout::PORT_WORDS, 0);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static SOCKETS: Map = map::<u32, u32>(XSKMAP, layout::MAX_QUEUES, 0);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static OUTCOMES: Map = map::<u32, u64>(PERCPU_ARRAY, layout::OUTCOME_COUNT, 0);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static ON_FAILURE: Map = map::<u32, u32>(ARRAY, 1, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 4] = *b"GPL\0";

#[repr(C)]
pub struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Helper 1: a pointer to the value, or null.
#[inline(always)]
unsafe fn lookup<K, V>(map: &Map, key: *const K) -> *mut V {
    let helper: unsafe extern "C" fn(*mut c_void, *const c_void) -> *mut c_void = core::mem::transmute(1_usize);
    helper(map.0.get().cast(), key.cast()).cast()
}

/// Helper 51: XDP_REDIRECT, or `missing` when there is no socket.
#[inline(always)]
unsafe fn redirect(map: &Map, key: u32, missing: u32) -> u32 {
    let helper: unsafe extern "C" fn(*mut c_void, u64, u64) -> i64 = core::mem::transmute(51_usize);
    helper(map.0.get().cast(), key as u64, missing as u64) as u32
}

#[inline(always)]
unsafe fn count(outcome: Outcome) {
    let index = outcome as u32;
    let counter: *mut u64 = lookup(&OUTCOMES, &index);
    if !counter.is_null() {
        *counter += 1;
    }
}

/// The packet between `data` and `data_end`; each read is checked against the end, as the verifier demands.
struct Bytes {
    data: usize,
    end: usize,
}

impl Bytes {
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let place = self.data + at;
        if place + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the read lies before `data_end`, which the comparison above proves to the verifier, too.
        Some(unsafe { (place as *const T).read_unaligned() })
    }
}

impl decide::Frame for Bytes {
    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        self.read(at)
    }
    #[inline(always)]
    fn word(&self, at: usize) -> Option<u16> {
        self.read::<u16>(at).map(u16::from_be)
    }
    #[inline(always)]
    fn four(&self, at: usize) -> Option<u32> {
        self.read(at)
    }
    #[inline(always)]
    fn sixteen(&self, at: usize) -> Option<[u32; 4]> {
        self.read(at)
    }
}

struct Maps;

impl decide::Rules for Maps {
    #[inline(always)]
    fn find(&self, address: [u32; 4]) -> u32 {
        let (block, (byte, shift)) = (layout::block(address), layout::place(address));
        let key = RuleKey { prefix_len: 128, address };
        // SAFETY: the keys live on the stack for the calls; a value that is not null is readable, and `place` is within a block.
        unsafe {
            let flags: *mut u8 = lookup(&ADDRESSES, &block);
            if !flags.is_null() {
                let flags = u32::from(*flags.add(byte)) >> shift & 0xf;
                if flags != 0 {
                    return flags;
                }
            }
            let flags: *mut u32 = lookup(&PREFIXES, &key);
            if flags.is_null() { 0 } else { *flags }
        }
    }
    #[inline(always)]
    fn ports(&self, index: u32) -> u32 {
        // SAFETY: as above.
        unsafe {
            let word: *mut u32 = lookup(&PORTS, &index);
            if word.is_null() { 0 } else { *word }
        }
    }
}

/// Entry point where the kernel gives large frames in several pieces (5.18 and later).
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp.frags")]
pub unsafe extern "C" fn sluice_steer(context: *const Context) -> u32 {
    steer(context)
}

/// Entry point where it does not.
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub unsafe extern "C" fn sluice_steer_whole(context: *const Context) -> u32 {
    steer(context)
}

#[inline(always)]
unsafe fn steer(context: *const Context) -> u32 {
    let bytes = Bytes { data: (*context).data as usize, end: (*context).data_end as usize };
    if decide::is_ours(&bytes, &Maps) != Some(true) {
        count(Outcome::Passed);
        return XDP_PASS;
    }
    let zero = 0_u32;
    let setting: *mut u32 = lookup(&ON_FAILURE, &zero);
    // Dropping is what an unset word means, too.
    let missing = if !setting.is_null() && *setting == layout::ON_FAILURE_PASS {
        layout::ON_FAILURE_PASS
    } else {
        layout::ON_FAILURE_DROP
    };
    let action = redirect(&SOCKETS, (*context).rx_queue_index, missing);
    if action == XDP_REDIRECT {
        count(Outcome::Steered);
    } else if action == XDP_PASS {
        count(Outcome::FailedOpen);
    } else {
        count(Outcome::FailedClosed);
    }
    action
}
