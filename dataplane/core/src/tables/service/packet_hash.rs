//! Cilium's hash of a packet, which picks the slot of a Maglev row: Bob Jenkins' lookup3 over the client's address, both
//! ports and the protocol. The service's address is left out, so that all addresses of a service agree.

use crate::flow_key::FlowKey;

const START: u32 = 0xdead_beef;

/// With affinity the source port is left out. `seeds`: for IPv4 and for IPv6.
#[expect(clippy::cast_possible_truncation, reason = "takes the address apart on purpose")]
#[inline]
pub(super) fn packet_hash(key: &FlowKey, affinity: bool, seeds: [u32; 2]) -> u32 {
    let sport = if affinity { 0 } else { key.sport };
    // Cilium's programs read ports and addresses as they lie in the packet, on little-endian machines.
    let ports = u32::from(key.dport.swap_bytes()) << 16 | u32::from(sport.swap_bytes());
    let bits = key.src.to_bits();
    let word = |from: u32| ((bits >> from) as u32).swap_bytes();
    let proto = u32::from(key.proto);
    if key.v4 {
        three_words([word(0), ports, proto], seeds[0])
    } else {
        address_and_two(&[word(96), word(64), word(32), word(0)], ports, proto, seeds[1])
    }
}

fn three_words(words: [u32; 3], seed: u32) -> u32 {
    let start = seed.wrapping_add(START).wrapping_add(3 << 2);
    last(words.map(|word| word.wrapping_add(start)))
}

/// Unlike lookup3 proper this starts from the words alone, mixes twice, and adds the seed at the end.
fn address_and_two(address: &[u32; 4], ports: u32, proto: u32, seed: u32) -> u32 {
    let [a, b, c] = mix([address[0], address[1], address[2]]);
    let [a, b, c] = mix([a.wrapping_add(address[3]), b.wrapping_add(ports), c.wrapping_add(proto)]);
    last([a.wrapping_add(seed), b, c])
}

/// lookup3's `mix`.
fn mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    let step = |x: &mut u32, y: u32, bits: u32| *x = x.wrapping_sub(y) ^ y.rotate_left(bits);
    step(&mut a, c, 4);
    c = c.wrapping_add(b);
    step(&mut b, a, 6);
    a = a.wrapping_add(c);
    step(&mut c, b, 8);
    b = b.wrapping_add(a);
    step(&mut a, c, 16);
    c = c.wrapping_add(b);
    step(&mut b, a, 19);
    a = a.wrapping_add(c);
    step(&mut c, b, 4);
    b = b.wrapping_add(a);
    [a, b, c]
}

/// lookup3's `final`.
fn last([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    let step = |x: &mut u32, y: u32, bits: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// lookup3's `hashlittle`, put together from the two steps, so that its published answers prove them.
    fn bytes(data: &[u8], seed: u32) -> u32 {
        let start = START.wrapping_add(u32::try_from(data.len()).unwrap()).wrapping_add(seed);
        let mut state = [start; 3];
        let mut blocks = data.chunks(12).peekable();
        while let Some(block) = blocks.next() {
            let mut padded = [0; 12];
            padded[..block.len()].copy_from_slice(block);
            for (n, word) in padded.chunks_exact(4).enumerate() {
                state[n] = state[n].wrapping_add(u32::from_le_bytes(word.try_into().unwrap()));
            }
            if blocks.peek().is_some() {
                state = mix(state);
            }
        }
        last(state)
    }

    #[test]
    fn the_steps_give_lookup3s_published_answers() {
        let text = b"Four score and seven years ago";
        assert_eq!(bytes(text, 0), 0x1777_0551);
        assert_eq!(bytes(text, 1), 0xcd62_8161);
    }

    #[test]
    fn three_words_are_the_bytes_of_three_words() {
        let words = [0x0403_0201, 0x0807_0605, 0x0c0b_0a09];
        assert_eq!(three_words(words, 7), bytes(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 7));
    }

    #[test]
    fn affinity_leaves_the_source_port_out_and_nothing_else() {
        for v4 in [true, false] {
            let src = if v4 { "::ffff:192.0.2.1" } else { "2001:db8::1" };
            let key = FlowKey {
                src: src.parse().unwrap(),
                dst: "::1".parse().unwrap(),
                sport: 1000,
                dport: 80,
                proto: 6,
                v4,
            };
            let hash = |key: FlowKey, affinity| packet_hash(&key, affinity, [1, 2]);
            let other_port = FlowKey { sport: 1001, ..key };
            assert_eq!(hash(key, true), hash(other_port, true));
            assert_ne!(hash(key, false), hash(other_port, false));
            assert_ne!(hash(key, true), hash(FlowKey { dport: 81, ..key }, true));
            assert_ne!(hash(key, true), hash(FlowKey { src: key.dst, ..key }, true));
            // All addresses of a service agree.
            assert_eq!(hash(key, false), hash(FlowKey { dst: key.src, ..key }, false));
        }
    }
}
