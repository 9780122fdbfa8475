//! Traces and captures that run: what the dataplane shows, told to whoever asked, line by line, until it is over.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_core::time::Now;
use sluice_feed::message::{Answer, Question, SeenPacket};
use sluice_policy::sighted::{Wanted, comment, stages};
use tokio::sync::mpsc;

use crate::reconcile::Control;
use crate::views;

/// Messages that may wait for a slow reader; more are lost, and counted.
const WAITING: usize = 64;
/// Packets and seconds at most, whatever is asked for.
const MOST_PACKETS: u64 = 1_000_000;
const MOST_SECONDS: u64 = 3600;

/// What came of a watch since the last message.
#[derive(Debug)]
struct News {
    /// Milliseconds since 1970 when the dataplane's clock said `now`.
    wall: u64,
    now: Now,
    packets: Vec<SeenPacket>,
    lost: u64,
    done: bool,
}

#[derive(Debug, Default)]
pub struct Watches {
    listeners: Mutex<HashMap<u32, Listener>>,
}

#[derive(Debug)]
struct Listener {
    tell: mpsc::Sender<News>,
    /// Packets that a slow reader missed.
    missed: u64,
}

impl Watches {
    fn listen(&self, watch: u32) -> mpsc::Receiver<News> {
        let (tell, news) = mpsc::channel(WAITING);
        self.lock().insert(watch, Listener { tell, missed: 0 });
        news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::disallowed_methods, reason = "packets are told with the time of day")]
    pub fn tell(&self, watch: u32, now: Now, packets: Vec<SeenPacket>, lost: u64, done: bool) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        let mut listeners = self.lock();
        let Some(listener) = listeners.get_mut(&watch) else { return };
        let count = packets.len() as u64;
        let news = News { wall, now, packets, lost: lost + listener.missed, done };
        // The last place is kept for the end, without which a reader would take us for gone.
        let fits = done || listener.tell.capacity() > 1;
        if !fits || listener.tell.try_send(news).is_err() {
            listener.missed += count;
        }
        if done {
            listeners.remove(&watch);
        }
    }

    /// The dataplane is gone, and every watch with it.
    pub fn end_all(&self) {
        self.lock().clear();
    }
}

/// What `/v1/watch` is asked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default = "ten")]
    packets: u64,
    #[serde(default = "ten")]
    seconds: u64,
    /// With their bytes, as hexadecimal text.
    #[serde(default)]
    frames: bool,
    /// JSON; see [`Wanted`].
    filter: Option<String>,
}

const fn ten() -> u64 {
    10
}

/// Ends the watch when the reader goes away.
struct Ending {
    control: Arc<Control>,
    watch: u32,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let still_there = self.control.watches.lock().remove(&self.watch).is_some();
        if still_there {
            self.control.link.tell(Question::Unwatch { watch: self.watch });
        }
    }
}

/// One JSON object a line for each packet, and one at the end: how many were seen and lost.
pub async fn serve(State(control): State<Arc<Control>>, Query(asked): Query<Asked>) -> Response {
    match start(&control, &asked).await {
        Ok((watch, news)) => {
            Body::from_stream(lines(Ending { control, watch }, news, asked.frames)).into_response()
        }
        Err((code, why)) => (code, why).into_response(),
    }
}

async fn start(
    control: &Control,
    asked: &Asked,
) -> Result<(u32, mpsc::Receiver<News>), (StatusCode, String)> {
    let wrong = |why: String| (StatusCode::BAD_REQUEST, why);
    let wanted: Wanted = asked
        .filter
        .as_ref()
        .map_or_else(|| Ok(Wanted::default()), |text| serde_json::from_str(text))
        .map_err(|error| wrong(error.to_string()))?;
    let filter = wanted.resolve(&control.world().compiled).map_err(wrong)?;
    let question = Question::Watch {
        filter: Box::new(filter),
        packets: asked.packets.clamp(1, MOST_PACKETS),
        milliseconds: asked.seconds.clamp(1, MOST_SECONDS) * 1000,
        frames: asked.frames,
    };
    let watch = control.link.number();
    let news = control.watches.listen(watch);
    match control.link.ask_as(watch, question).await {
        Ok(Answer::Done) => Ok((watch, news)),
        Ok(Answer::Failed(why)) | Err(why) => {
            control.watches.lock().remove(&watch);
            Err((StatusCode::SERVICE_UNAVAILABLE, why))
        }
        Ok(_) => Err((StatusCode::SERVICE_UNAVAILABLE, "the dataplane answered something else".to_owned())),
    }
}

fn lines(
    ending: Ending,
    news: mpsc::Receiver<News>,
    frames: bool,
) -> impl tokio_stream::Stream<Item = Result<String, Infallible>> {
    use tokio_stream::StreamExt;
    let mut seen = 0_u64;
    tokio_stream::wrappers::ReceiverStream::new(news).map(move |news| {
        let world = ending.control.world();
        let mut text = String::new();
        for packet in &news.packets {
            seen += 1;
            let mut told = tell(&ending.control, &world.compiled, packet, &news);
            told["n"] = json!(seen);
            if frames {
                told["frames"] = json!({"came": hex(&packet.came), "went": hex(&packet.went)});
                told["comment"] = json!(comment(&told));
            }
            text.push_str(&format!("{told}\n"));
        }
        if news.done {
            text.push_str(&format!("{}\n", json!({"done": true, "seen": seen, "lost": news.lost})));
        }
        Ok(text)
    })
}

fn tell(
    control: &Control,
    compiled: &sluice_policy::compile::Compiled,
    packet: &SeenPacket,
    news: &News,
) -> Value {
    let nanoseconds = news.wall * 1_000_000 - news.now.0.saturating_sub(packet.sighting.at.0);
    let device = |(index, vlan): (u16, u16)| {
        let interface = control.gateway.dataplane.interfaces.get(usize::from(index));
        let name = interface.map_or("?", |interface| interface.name.as_str());
        if vlan == 0 { name.to_owned() } else { format!("{name}.{vlan}") }
    };
    let (came_by, leaves_by) = (device(packet.came_by), packet.leaves_by.map(device));
    let at = views::time(nanoseconds / 1_000_000);
    let mut told = stages(&packet.sighting, &at, (&came_by, leaves_by.as_deref()), compiled);
    told["nanoseconds"] = json!(nanoseconds);
    told
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_hears_of_the_end_all_the_same() {
        let watches = Watches::default();
        let mut news = watches.listen(7);
        for n in 0..2 * WAITING as u64 {
            watches.tell(7, Now(n), Vec::new(), n, false);
        }
        watches.tell(7, Now(999), Vec::new(), 5, true);
        let heard: Vec<News> = std::iter::from_fn(|| news.try_recv().ok()).collect();
        assert_eq!(heard.len(), WAITING);
        assert!(heard.last().is_some_and(|last| last.done && last.lost == 5));
        assert!(watches.lock().is_empty());
    }
}
