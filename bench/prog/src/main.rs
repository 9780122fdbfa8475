//! XDP programs that make traffic and take it in. `sluice_generate` is run by the kernel's test runner on live frames:
//! each time it writes a packet's headers and sends it by the interface that was ordered. `sluice_absorb` counts what
//! arrives and how long it took. Compiled to BPF by `xdp-steer/prog/build`, see `scripts/build-xdp.sh`.
#![no_std]
#![allow(non_upper_case_globals, dead_code, unsafe_op_in_unsafe_fn)]

mod layout;

use core::{cell::UnsafeCell, ffi::c_void, mem::size_of};

use layout::*;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

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

const fn map<V>(kind: u32, max_entries: u32) -> Map {
    let (key_size, value_size) = (4, size_of::<V>() as u32);
    Map(UnsafeCell::new(MapDefinition { kind, key_size, value_size, max_entries, flags: 0, id: 0, pinning: 0 }))
}

const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;

type Order = [u64; ORDER_WORDS];

#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static ORDER: Map = map::<Order>(ARRAY, 1);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static HALT: Map = map::<u64>(ARRAY, 1);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static COUNTS: Map = map::<[u64; COUNT_WORDS as usize]>(PERCPU_ARRAY, 1);
#[unsafe(no_mangle)]
#[unsafe(link_section = "maps")]
pub static LATENCY: Map = map::<u64>(PERCPU_ARRAY, BUCKETS);

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
unsafe fn lookup<V>(map: &Map, key: u32) -> *mut V {
    let helper: unsafe extern "C" fn(*mut c_void, *const c_void) -> *mut c_void = core::mem::transmute(1_usize);
    helper(map.0.get().cast(), (&raw const key).cast()).cast()
}

/// Helper 5: nanoseconds of the monotonic clock.
#[inline(always)]
unsafe fn clock() -> u64 {
    let helper: unsafe extern "C" fn() -> u64 = core::mem::transmute(5_usize);
    helper()
}

/// Helper 23: send by this interface.
#[inline(always)]
unsafe fn redirect(interface: u32) -> u32 {
    let helper: unsafe extern "C" fn(u32, u64) -> i64 = core::mem::transmute(23_usize);
    helper(interface, 0) as u32
}

/// Helper 65: move the end of the frame.
#[inline(always)]
unsafe fn adjust_tail(context: *const Context, delta: i32) -> i64 {
    let helper: unsafe extern "C" fn(*const Context, i32) -> i64 = core::mem::transmute(65_usize);
    helper(context, delta)
}

/// Write a value of this type into the packet; the caller has compared with its end.
#[inline(always)]
unsafe fn put<T>(data: usize, at: usize, value: T) {
    ((data + at) as *mut T).write_unaligned(value);
}

#[inline(always)]
unsafe fn get<T: Copy>(data: usize, at: usize) -> T {
    ((data + at) as *const T).read_unaligned()
}

/// A sum of 16-bit words, folded twice.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// What one packet has of its own.
struct One {
    source: u32,
    target: u32,
    port: u16,
    length: u16,
    stamp: u64,
}

/// Make the next packet of the order and send it.
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub unsafe extern "C" fn sluice_generate(context: *const Context) -> u32 {
    let order: *const Order = lookup(&ORDER, 0);
    let halt: *const u64 = lookup(&HALT, 0);
    let counts: *mut [u64; COUNT_WORDS as usize] = lookup(&COUNTS, 0);
    if order.is_null() || halt.is_null() || counts.is_null() {
        return XDP_DROP;
    }
    let (order, counts) = (&*order, &mut *counts);
    counts[ASKED as usize] += 1;
    if halt.read_volatile() != 0 {
        return XDP_DROP;
    }
    let (now, sent) = (clock(), counts[SENT as usize]);
    if counts[BEGAN as usize] == 0 {
        counts[BEGAN as usize] = now;
    }
    let since = now - counts[BEGAN as usize];
    if since >= order[LASTS] || sent >= order[BUDGET] || !due(order, counts, since) {
        return XDP_DROP;
    }
    let slot = sent % (order[SIZES_USED] | (order[SIZES_USED] == 0) as u64);
    let length = if slot < SIZES as u64 { order[FIRST_SIZE + (slot as usize & 15) % SIZES] } else { return XDP_DROP };
    let delta = length as i32 - order[LONGEST] as i32;
    if delta != 0 && adjust_tail(context, delta) != 0 {
        return XDP_DROP;
    }
    let flow = order[FIRST] + if order[FLOWS] == 0 { sent } else { sent % order[FLOWS] };
    let (addresses, targets) = (order[ADDRESSES], order[TARGETS]);
    if addresses == 0 || targets == 0 {
        return XDP_DROP;
    }
    let one = One {
        source: (order[SOURCE] + flow % addresses) as u32,
        target: (order[TARGET] + flow % targets * order[APART]) as u32,
        port: (order[PORT] + flow / addresses) as u16,
        length: length as u16,
        stamp: now,
    };
    let written = if order[FAMILY] == 4 { ipv4(context, order, &one) } else { ipv6(context, order, &one) };
    if !written {
        return XDP_DROP;
    }
    counts[SENT as usize] = sent + 1;
    counts[SENT_BYTES as usize] += length;
    redirect(order[OUT] as u32)
}

/// Is it time for a packet? What was missed is not made up for, but for a few packets: that would be a burst.
#[inline(always)]
fn due(order: &Order, counts: &mut [u64; COUNT_WORDS as usize], since: u64) -> bool {
    let interval = order[INTERVAL];
    if interval == 0 {
        return true;
    }
    let now = since << 16;
    let at = counts[DUE as usize];
    if now < at {
        return false;
    }
    let behind = interval << 7;
    counts[DUE as usize] = if at + behind < now { now } else { at + interval };
    true
}

/// Ethernet, IPv4, UDP without a checksum, mark.
#[inline(always)]
unsafe fn ipv4(context: *const Context, order: &Order, one: &One) -> bool {
    let (data, end) = ((*context).data as usize, (*context).data_end as usize);
    if data + 54 > end {
        return false;
    }
    let word = |n: usize| order[FIRST_HEADER + n];
    put(data, 0, word(0));
    put(data, 8, word(1));
    put(data, 16, word(2));
    put(data, 24, word(3));
    put(data, 32, word(4));
    put(data, 40, word(5) as u16);
    put(data, 16, (one.length - 14).to_be());
    put(data, 24, 0_u16);
    put(data, 26, one.source.to_be());
    put(data, 30, one.target.to_be());
    let mut sum = 0_u64;
    let mut at = 14;
    while at < 34 {
        sum += get::<u16>(data, at) as u64;
        at += 2;
    }
    put(data, 24, !fold(sum));
    put(data, 34, one.port.to_be());
    put(data, 38, (one.length - 34).to_be());
    put(data, 40, 0_u16);
    put(data, 42, MARK);
    put(data, 46, one.stamp);
    true
}

/// Ethernet, IPv6, UDP, mark.
#[inline(always)]
unsafe fn ipv6(context: *const Context, order: &Order, one: &One) -> bool {
    let (data, end) = ((*context).data as usize, (*context).data_end as usize);
    if data + 74 > end {
        return false;
    }
    let word = |n: usize| order[FIRST_HEADER + n];
    put(data, 0, word(0));
    put(data, 8, word(1));
    put(data, 16, word(2));
    put(data, 24, word(3));
    put(data, 32, word(4));
    put(data, 40, word(5));
    put(data, 48, word(6));
    put(data, 56, word(7) as u32);
    let payload = (one.length - 54).to_be();
    put(data, 18, payload);
    put(data, 34, one.source.to_be());
    put(data, 50, one.target.to_be());
    put(data, 54, one.port.to_be());
    put(data, 58, payload);
    put(data, 62, MARK);
    put(data, 66, one.stamp);
    let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
    let sum = order[SUM]
        + 2 * payload as u64
        + one.source.to_be() as u64
        + one.target.to_be() as u64
        + one.port.to_be() as u64
        + MARK as u64
        + halves(one.stamp);
    let check = !fold(sum);
    put(data, 60, if check == 0 { 0xffff } else { check });
    true
}

/// Count a packet of ours and how long it took; leave all else to the kernel.
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub unsafe extern "C" fn sluice_absorb(context: *const Context) -> u32 {
    let (data, end) = ((*context).data as usize, (*context).data_end as usize);
    let counts: *mut [u64; COUNT_WORDS as usize] = lookup(&COUNTS, 0);
    if counts.is_null() {
        return XDP_PASS;
    }
    let counts = &mut *counts;
    let Some(stamp) = stamp(data, end) else {
        counts[OTHERS as usize] += 1;
        return XDP_PASS;
    };
    counts[RECEIVED as usize] += 1;
    counts[RECEIVED_BYTES as usize] += (end - data) as u64;
    let now = clock();
    let slot: *mut u64 = lookup(&LATENCY, bucket(now - stamp));
    if !slot.is_null() {
        *slot += 1;
    }
    XDP_DROP
}

/// When the packet was made, if it is one of ours.
#[inline(always)]
unsafe fn stamp(data: usize, end: usize) -> Option<u64> {
    if data + 54 > end {
        return None;
    }
    let version = get::<u8>(data, 14);
    if version == 0x45 && get::<u32>(data, 42) == MARK {
        return Some(get(data, 46));
    }
    if version >> 4 != 6 || data + 74 > end || get::<u32>(data, 62) != MARK {
        return None;
    }
    Some(get(data, 66))
}

/// Let everything through. A virtual device takes redirected frames only if its far end has a program.
///
/// # Safety
/// Called by the kernel with a valid context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub unsafe extern "C" fn sluice_pass(_: *const Context) -> u32 {
    XDP_PASS
}
