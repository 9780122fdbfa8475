//! The built XDP program in the kernel, packet by packet (`BPF_PROG_TEST_RUN`): a table of {description, packet, verdict},
//! what happens without a socket, a counter for each outcome, and agreement with its own source compiled for this machine.
//!
//! Needs root and a kernel with BPF; without them it says so and counts as skipped.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stderr, reason = "a test that was skipped says so loudly")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use sluice_steer::Rule;
use sluice_steer::rules::blocks;
use sluice_steer_abi::decide::{Frame, Rules, is_ours};
use sluice_steer_abi::layout::{self, FROM, OWN, TO, TUNNEL};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../src/steer.o");

const DROP: u32 = 1;
const PASS: u32 = 2;

/// What is whose in this test.
const RULES: [(&str, u8, u32); 12] = [
    ("203.0.113.80", 32, TO),
    ("2001:db8:cafe::80", 128, TO),
    // Its neighbours in one block: even and odd, the last, and one of another kind.
    ("203.0.113.255", 32, TO),
    ("203.0.113.254", 32, FROM),
    ("2001:db8:cafe::83", 128, TO),
    ("10.244.0.0", 16, TO | FROM),
    // A hole, and somebody of ours in it: the longest prefix wins.
    ("10.244.9.0", 24, 0),
    ("10.244.9.9", 32, TO | FROM),
    ("2001:db8:2::", 64, TO | FROM),
    ("10.250.0.0", 16, FROM),
    ("192.0.2.1", 32, OWN | TUNNEL),
    ("2001:db8:1::1", 128, OWN),
];
const PORTS: [(u16, u16); 2] = [(30_000, 32_767), (40_000, 40_100)];

/// The ports of the ranges among 32, a bit each.
fn port_word(index: u32) -> u32 {
    let is_ours =
        |port: u32| PORTS.iter().any(|(first, last)| (u32::from(*first)..=u32::from(*last)).contains(&port));
    (0..32).filter(|bit| is_ours(index * 32 + bit)).fold(0, |word, bit| word | 1 << bit)
}

fn rules() -> BTreeMap<Rule, u32> {
    RULES.iter().map(|(ip, len, flags)| (Rule::new(ip.parse().unwrap(), *len), *flags)).collect()
}

struct Program(Ebpf);

impl Program {
    /// `None`: not allowed here.
    fn load() -> Option<Self> {
        let mut ebpf = match EbpfLoader::new().load(OBJECT) {
            Ok(ebpf) => ebpf,
            Err(error) => {
                let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
                assert!(!root, "root cannot load the program: {error:?}");
                eprintln!("SKIPPED: loading an XDP program needs root: {error}");
                return None;
            }
        };
        let program: &mut Xdp = ebpf.program_mut(layout::PROGRAMS[1]).unwrap().try_into().unwrap();
        program.load().unwrap();
        let rules = rules();
        let map = ebpf.map_mut(layout::ADDRESSES).unwrap();
        let mut addresses: HashMap<_, [u32; 4], layout::Block> = HashMap::try_from(map).unwrap();
        for (key, block) in blocks(&rules) {
            addresses.insert(key, block, 0).unwrap();
        }
        let mut prefixes: LpmTrie<_, [u32; 4], u32> =
            LpmTrie::try_from(ebpf.map_mut(layout::PREFIXES).unwrap()).unwrap();
        for (rule, flags) in rules.iter().filter(|(rule, _)| !rule.is_address()) {
            prefixes.insert(&Key::new(rule.prefix_len, rule.address), flags, 0).unwrap();
        }
        let mut words: Array<_, u32> = Array::try_from(ebpf.map_mut(layout::PORTS).unwrap()).unwrap();
        for index in 0..layout::PORT_WORDS {
            words.set(index, port_word(index), 0).unwrap();
        }
        Some(Self(ebpf))
    }

    fn on_failure(&mut self, word: u32) {
        let mut words: Array<_, u32> = Array::try_from(self.0.map_mut(layout::ON_FAILURE).unwrap()).unwrap();
        words.set(0, word, 0).unwrap();
    }

    /// The verdict; and the packet must be as it was.
    fn run(&mut self, frame: &[u8]) -> u32 {
        let mut out = vec![0; frame.len() + 64];
        let program: &Xdp = self.0.program(layout::PROGRAMS[1]).unwrap().try_into().unwrap();
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = program.test_run(options).unwrap();
        assert_eq!(&out[..result.data_size_out as usize], frame, "the program changes no packet");
        result.return_value
    }

    fn outcomes(&self) -> [u64; 4] {
        let counters: PerCpuArray<_, u64> =
            PerCpuArray::try_from(self.0.map(layout::OUTCOMES).unwrap()).unwrap();
        [0, 1, 2, 3].map(|index| counters.get(&index, 0).unwrap().iter().sum())
    }
}

/// Ethernet with these tags, and an IP packet with a protocol and the first bytes of what it carries.
fn packet(tags: &[u16], src: &str, dst: &str, proto: u8, l4: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (n, tag) in tags.iter().enumerate() {
        frame.extend(if n + 1 < tags.len() { [0x88, 0xa8] } else { [0x81, 0x00] });
        frame.extend(tag.to_be_bytes());
    }
    let mut part = l4.to_vec();
    part.resize(l4.len().max(20), 0);
    match (src.parse().unwrap(), dst.parse().unwrap()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, proto, 0, 0]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let hops = if proto == 58 { 255 } else { 64 };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, proto, hops]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        _ => panic!("one family"),
    }
    frame.extend(part);
    frame
}

fn to_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [0x9c, 0x40, high, low]
}

fn arp() -> Vec<u8> {
    let mut frame =
        vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    frame.resize(60, 0);
    frame
}

/// Description, packet, and whether it is ours.
fn table() -> Vec<(&'static str, Vec<u8>, bool)> {
    let (world, world6) = ("198.51.100.7", "2001:db8:77::7");
    let web = to_port(80);
    let v4 = |dst, proto, l4: &[u8]| packet(&[], world, dst, proto, l4);
    let v6 = |dst, proto, l4: &[u8]| packet(&[], world6, dst, proto, l4);
    let mut later = v4("192.0.2.1", 17, &to_port(30_001));
    later[21] = 8;
    let mut options = v4("192.0.2.1", 17, &[1, 1, 1, 1, 0x9c, 0x40, 0x75, 0x30]);
    options[14] = 0x46;
    let mut far = v6("2001:db8:cafe::80", 58, &[135]);
    far[21] = 64;
    let mut llc = v4("203.0.113.80", 6, &web);
    llc[12..14].copy_from_slice(&[0, 60]);
    let mut three = packet(&[7, 100], world, "203.0.113.80", 6, &web);
    three.splice(12..12, [0x88, 0xa8, 0, 9]);
    vec![
        ("a service", v4("203.0.113.80", 6, &web), true),
        ("a service in IPv6", v6("2001:db8:cafe::80", 6, &web), true),
        ("a service behind one tag", packet(&[100], world, "203.0.113.80", 6, &web), true),
        ("a service behind two tags", packet(&[7, 100], world, "203.0.113.80", 6, &web), true),
        ("IPv6 behind two tags", packet(&[7, 100], world6, "2001:db8:cafe::80", 6, &web), true),
        ("three tags are nobody's", three, false),
        ("another address beside the service", v4("203.0.113.81", 6, &web), false),
        ("the last address of the block", v4("203.0.113.255", 6, &web), true),
        ("the first, which is nobody's", v4("203.0.113.0", 6, &web), false),
        ("to a source in the block", v4("203.0.113.254", 6, &web), false),
        ("from a source in the block", packet(&[], "203.0.113.254", world, 6, &web), true),
        ("from a service in the block", packet(&[], "203.0.113.255", world, 6, &web), false),
        ("a neighbour of the service in IPv6", v6("2001:db8:cafe::83", 6, &web), true),
        ("between the neighbours in IPv6", v6("2001:db8:cafe::82", 6, &web), false),
        ("the same end in another block", v4("203.0.114.255", 6, &web), false),
        ("to the guarded", v4("10.244.1.1", 17, &web), true),
        ("from the guarded", packet(&[], "10.244.1.1", world, 17, &web), true),
        ("to the guarded in IPv6", v6("2001:db8:2::5", 17, &web), true),
        ("from the guarded in IPv6", packet(&[], "2001:db8:2::5", world6, 17, &web), true),
        ("to the hole in the guarded", v4("10.244.9.1", 17, &web), false),
        ("from the hole", packet(&[], "10.244.9.1", world, 17, &web), false),
        ("to ours in the hole", v4("10.244.9.9", 17, &web), true),
        ("from ours in the hole", packet(&[], "10.244.9.9", world, 17, &web), true),
        ("from who is ours only as a source", packet(&[], "10.250.0.1", world, 17, &web), true),
        ("to who is ours only as a source", v4("10.250.0.1", 17, &web), false),
        ("between strangers", v4("198.51.100.8", 17, &web), false),
        ("from the guarded to a multicast group", packet(&[], "10.244.1.1", "224.0.0.251", 17, &web), false),
        ("from the guarded to everybody", packet(&[], "10.244.1.1", "255.255.255.255", 17, &web), false),
        ("from the guarded to its link", packet(&[], "2001:db8:2::5", "fe80::1", 17, &web), false),
        ("from the guarded to an IPv6 group", packet(&[], "2001:db8:2::5", "ff02::1", 17, &web), false),
        ("SSH to the node", v4("192.0.2.1", 6, &to_port(22)), false),
        ("a NodePort, the first", v4("192.0.2.1", 6, &to_port(30_000)), true),
        ("a NodePort, the last", v4("192.0.2.1", 17, &to_port(32_767)), true),
        ("behind the last NodePort", v4("192.0.2.1", 6, &to_port(32_768)), false),
        ("before the first NodePort", v4("192.0.2.1", 6, &to_port(29_999)), false),
        ("the other range, SCTP", v4("192.0.2.1", 132, &to_port(40_050)), true),
        ("a NodePort in IPv6", v6("2001:db8:1::1", 6, &to_port(30_000)), true),
        ("BGP to the node in IPv6", v6("2001:db8:1::1", 6, &to_port(179)), false),
        ("a NodePort behind IPv4 options", options, true),
        ("a later fragment to the node", later, false),
        ("ping to the node", v4("192.0.2.1", 1, &[8, 0, 0x75, 0x30]), false),
        ("the guarded to SSH of the node", packet(&[], "10.244.1.1", "192.0.2.1", 6, &to_port(22)), false),
        ("IP in IP to the end of tunnels", v4("192.0.2.1", 4, &[0x45]), true),
        ("Geneve to the end of tunnels", v4("192.0.2.1", 17, &to_port(6081)), true),
        ("Geneve to a node address that ends none", v6("2001:db8:1::1", 17, &to_port(6081)), false),
        ("ARP", arp(), false),
        ("a neighbour solicitation for a service", v6("2001:db8:cafe::80", 58, &[135]), false),
        ("the same from far away is none", far, true),
        ("ping to a service in IPv6", v6("2001:db8:cafe::80", 58, &[128]), true),
        ("LLC", llc, false),
        ("an IPv4 header cut short", v4("203.0.113.80", 6, &web)[..33].to_vec(), false),
        ("an IPv6 header cut short", v6("2001:db8:cafe::80", 6, &web)[..53].to_vec(), false),
        ("ports cut short, to the node", v4("192.0.2.1", 6, &web)[..37].to_vec(), false),
        ("nothing but an Ethernet header", v4("203.0.113.80", 6, &web)[..14].to_vec(), false),
    ]
}

#[test]
fn packets_meet_their_verdicts() {
    let Some(mut program) = Program::load() else { return };
    let table = table();
    // Without a socket: closed unless the operator chose otherwise; an unset word means closed, too.
    for (word, failed, outcome) in
        [(0, DROP, 2), (layout::ON_FAILURE_DROP, DROP, 2), (layout::ON_FAILURE_PASS, PASS, 3)]
    {
        program.on_failure(word);
        check(&mut program, &table, failed, outcome);
    }
    // With a socket they are given to it: the end-to-end scenarios see to that.
}

/// Every packet of the table has its verdict, and its outcome's counter alone moves.
fn check(program: &mut Program, table: &[(&str, Vec<u8>, bool)], steered: u32, outcome: usize) {
    for (what, frame, ours) in table {
        let mut expected = program.outcomes();
        let (verdict, counter) = if *ours { (steered, outcome) } else { (PASS, 1) };
        assert_eq!(program.run(frame), verdict, "{what}");
        expected[counter] += 1;
        assert_eq!(program.outcomes(), expected, "{what}");
    }
}

/// A frame and the maps, for the same source compiled for this machine.
struct Host<'a>(&'a [u8], &'a BTreeMap<Rule, u32>);

impl Frame for Host<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }
    fn word(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
    }
    fn four(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
    }
    fn sixteen(&self, at: usize) -> Option<[u32; 4]> {
        Some([self.four(at)?, self.four(at + 4)?, self.four(at + 8)?, self.four(at + 12)?])
    }
}

impl Rules for Host<'_> {
    /// Every prefix is looked at; the longest that holds the address wins.
    fn find(&self, address: [u32; 4]) -> u32 {
        let bits = |words: [u32; 4]| {
            words.iter().fold(0_u128, |all, word| all << 32 | u128::from(u32::from_be(*word)))
        };
        let holds = |rule: &Rule| {
            let rest = 128 - rule.prefix_len;
            rest == 128 || bits(address) >> rest == bits(rule.address) >> rest
        };
        self.1
            .iter()
            .filter(|(rule, _)| holds(rule))
            .max_by_key(|(rule, _)| rule.prefix_len)
            .map_or(0, |(_, flags)| *flags)
    }
    fn ports(&self, index: u32) -> u32 {
        port_word(index)
    }
}

#[test]
fn the_table_holds_for_the_source_compiled_here() {
    for (what, frame, ours) in table() {
        assert_eq!(is_ours(&Host(&frame, &rules()), &Host(&frame, &rules())) == Some(true), ours, "{what}");
    }
}

#[test]
fn the_object_agrees_with_its_source_on_random_packets() {
    let Some(mut program) = Program::load() else { return };
    program.on_failure(layout::ON_FAILURE_DROP);
    let (rules, table) = (rules(), table());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24) as usize
    };
    let mut ours = 0;
    for _ in 0..20_000 {
        let mut frame = table[next() % table.len()].1.clone();
        for _ in 0..next() % 4 {
            let at = next() % frame.len();
            frame[at] = match next() % 3 {
                0 => next() as u8,
                1 => frame[at] ^ 1 << (next() % 8),
                _ => table[next() % table.len()].1[at % 14],
            };
        }
        if next() % 8 == 0 {
            frame.truncate(14 + next() % frame.len());
        }
        let expected = is_ours(&Host(&frame, &rules), &Host(&frame, &rules)) == Some(true);
        ours += u32::from(expected);
        assert_eq!(program.run(&frame) == DROP, expected, "{frame:02x?}");
    }
    assert!((2_000..18_000).contains(&ours), "{ours} of 20000 were ours");
}
