//! The traffic programs in the kernel: loaded, told, and read.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use serde::{Deserialize, Serialize};

/// Between two looks at whether a program is still at work.
const STILL: Duration = Duration::from_millis(2);
/// Looks before a runner that asks for nothing is taken for one that has ended.
const LOOKS: usize = 500;

/// What the programs and we agree on.
#[allow(dead_code, reason = "some numbers only the programs need")]
#[expect(clippy::cast_possible_truncation, reason = "a bucket's number is small")]
#[path = "../../prog/src/layout.rs"]
pub(crate) mod layout;

static OBJECT: &[u8] = include_bytes_aligned!("traffic.o");

type Counters = [u64; layout::COUNT_WORDS as usize];
type Words = [u64; layout::ORDER_WORDS];

/// Packets and bytes that the programs saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub sent: u64,
    pub sent_bytes: u64,
    pub asked: u64,
    pub received: u64,
    pub received_bytes: u64,
    pub others: u64,
}

#[derive(Debug)]
pub(crate) struct Programs {
    ebpf: Ebpf,
    /// Changed while the generator runs.
    halt: Mutex<Map>,
}

impl Programs {
    pub(crate) fn load() -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the traffic programs (root?)")?;
        for name in [layout::GENERATE, layout::ABSORB, layout::PASS] {
            let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        let halt = ebpf.take_map(layout::HALT).context("no map to halt by")?;
        Ok(Self { ebpf, halt: Mutex::new(halt) })
    }

    /// Put a program on an interface for as long as this lives; whether it runs in the driver.
    pub(crate) fn attach(&mut self, name: &str, interface: &str) -> anyhow::Result<bool> {
        let program: &mut Xdp = self.ebpf.program_mut(name).context("no such program")?.try_into()?;
        if program.attach(interface, XdpMode::Driver).is_ok() {
            return Ok(true);
        }
        program
            .attach(interface, XdpMode::Skb)
            .with_context(|| format!("cannot put an XDP program on {interface}"))?;
        Ok(false)
    }

    /// What to make, before any of it is made.
    pub(crate) fn order(&mut self, words: &Words) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut(layout::ORDER).context("no map of orders")?;
        let mut orders: Array<&mut MapData, Words> = Array::try_from(map)?;
        Ok(orders.set(0, words, 0)?)
    }

    /// Make no more packets, and say how many it were: to the last one, also if its core was away meanwhile.
    pub(crate) fn stop(&self) -> anyhow::Result<Counts> {
        let mut map = self.halt.lock().unwrap_or_else(PoisonError::into_inner);
        let mut halt: Array<&mut MapData, u64> = Array::try_from(&mut *map)?;
        halt.set(0, 1, 0)?;
        let mut before = self.counts()?;
        for _ in 0..LOOKS {
            std::thread::sleep(STILL);
            let now = self.counts()?;
            // The runner still asks, and gets nothing; one that does not ask may be about to count.
            if now.sent == before.sent && now.asked > before.asked {
                break;
            }
            before = now;
        }
        self.counts()
    }

    fn counters(&self) -> anyhow::Result<PerCpuValues<Counters>> {
        let map = self.ebpf.map(layout::COUNTS).context("no map of counts")?;
        let counts: PerCpuArray<&MapData, Counters> = PerCpuArray::try_from(map)?;
        Ok(counts.get(&0, 0)?)
    }

    pub(crate) fn counts(&self) -> anyhow::Result<Counts> {
        let all = self.counters()?;
        let sum = |word: u32| all.iter().map(|one| one[word as usize]).sum();
        Ok(Counts {
            sent: sum(layout::SENT),
            sent_bytes: sum(layout::SENT_BYTES),
            asked: sum(layout::ASKED),
            received: sum(layout::RECEIVED),
            received_bytes: sum(layout::RECEIVED_BYTES),
            others: sum(layout::OTHERS),
        })
    }

    /// Packets by latency, in the buckets of the layout, since the start.
    pub(crate) fn latencies(&self) -> anyhow::Result<Vec<u64>> {
        let map = self.ebpf.map(layout::LATENCY).context("no map of latencies")?;
        let buckets: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
        (0..layout::BUCKETS).map(|bucket| Ok(buckets.get(&bucket, 0)?.iter().sum())).collect()
    }

    /// Make packets on this thread's core until the order is done and `slots` turns are over. Blocks.
    pub(crate) fn run(&self, longest: u16, slots: u32) -> anyhow::Result<()> {
        const BATCH: u32 = 64;
        let frame = vec![0; longest.into()];
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: slots,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        self.generator()?.test_run(options).context("the kernel's test runner (live frames, Linux 5.18)")?;
        Ok(())
    }

    /// The next packet as the program writes it, not sent.
    pub(crate) fn show(&self, longest: u16) -> anyhow::Result<Vec<u8>> {
        let frame = vec![0; longest.into()];
        let mut written = vec![0; 4096];
        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut written), ..TestRunOptions::new() };
        let result = self.generator()?.test_run(options)?;
        written.truncate(result.data_size_out as usize);
        Ok(written)
    }

    fn generator(&self) -> anyhow::Result<&Xdp> {
        Ok(self.ebpf.program(layout::GENERATE).context("no generator")?.try_into()?)
    }
}

/// The number of an interface.
pub(crate) fn interface_index(name: &str) -> anyhow::Result<u32> {
    // What the namespace has: sysfs shows those of the mount's namespace, which need not be ours.
    sluice_xsk::interface_index(name).with_context(|| format!("there is no interface {name}"))
}

/// Latency at the quantile, in nanoseconds: the middle of its bucket.
pub(crate) fn quantile(buckets: &[u64], quantile: f64) -> u64 {
    let total: u64 = buckets.iter().sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count"
    )]
    let wanted = ((total as f64) * quantile).ceil() as u64;
    let mut seen = 0;
    for (bucket, count) in (0_u64..).zip(buckets) {
        seen += count;
        if seen >= wanted.max(1) {
            return middle(bucket);
        }
    }
    0
}

/// The latency in the middle of a bucket.
const fn middle(bucket: u64) -> u64 {
    if bucket < 16 {
        return bucket;
    }
    let power = (bucket >> 4) + 3;
    let step = 1 << (power - 4);
    (1 << power) + (bucket & 15) * step + step / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_their_middle_says() {
        let mut before = 0;
        for ns in (0..5000).chain([1 << 20, (1 << 30) + 77, 1 << 44]) {
            let bucket = layout::bucket(ns);
            assert!(bucket >= before && bucket < layout::BUCKETS);
            before = bucket;
            let middle = middle(bucket.into());
            assert!(middle.abs_diff(ns) <= ns / 16 + 1, "{ns} in {bucket} with {middle}");
        }
    }
}
