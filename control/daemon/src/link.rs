//! The connection to the dataplane: made again whenever it is lost, a snapshot first each time.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_core::tables::record::Change;
use sluice_feed::codec::{Decoder, write};
use sluice_feed::message::{Answer, Question, ToControl, ToDataplane, chunks};
use tokio::sync::oneshot;

use crate::reconcile::Control;

const RETRY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);
/// A dataplane that takes nothing for so long is given up: nothing else goes on here while it is waited for.
const STUCK: Duration = Duration::from_secs(30);

/// The way to the dataplane, if there is one.
#[derive(Debug, Default)]
pub struct Link {
    stream: Mutex<Option<UnixStream>>,
    up: AtomicBool,
    next: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
}

impl Link {
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Tell of a generation. Without a dataplane nothing is lost: the next one gets a snapshot.
    pub fn send_changes(&self, generation: u64, whole: bool, changes: Vec<Change>) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = stream.as_mut() else { return };
        for piece in chunks(generation, whole, changes) {
            if let Err(error) = write(open, &piece) {
                tracing::warn!("the dataplane did not take generation {generation}: {error}");
                // Whoever reads hears of it, too, and connects anew: this generation comes with the snapshot.
                drop(open.shutdown(Shutdown::Both));
                *stream = None;
                return;
            }
        }
    }

    /// A number for a question.
    pub fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Ask without waiting for the answer. Without a dataplane there is nobody to tell.
    pub fn tell(&self, question: Question) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = stream.as_mut() {
            // A broken connection shows when it is read.
            drop(write(open, &ToDataplane::Ask { id: self.number(), question }));
        }
    }

    /// Ask the dataplane.
    pub async fn ask(&self, question: Question) -> Result<Answer, String> {
        self.ask_as(self.number(), question).await
    }

    /// Ask under a number of one's own.
    pub async fn ask_as(&self, id: u32, question: Question) -> Result<Answer, String> {
        let (tell, answer) = oneshot::channel();
        self.waiting().insert(id, tell);
        let answered = match self.put(id, question) {
            Ok(()) => tokio::time::timeout(PATIENCE, answer).await,
            Err(why) => {
                self.waiting().remove(&id);
                return Err(why);
            }
        };
        self.waiting().remove(&id);
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err("the dataplane did not answer in time".to_owned()),
        }
    }

    fn put(&self, id: u32, question: Question) -> Result<(), String> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let open = stream.as_mut().ok_or("the dataplane is not connected")?;
        write(open, &ToDataplane::Ask { id, question }).map_err(|error| error.to_string())
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keep a connection, on a thread of its own.
pub fn start(control: Arc<Control>) {
    std::thread::spawn(move || {
        loop {
            if let Ok(stream) = UnixStream::connect(&control.gateway.dataplane.socket) {
                match serve(&control, stream) {
                    Ok(()) => tracing::warn!("the dataplane closed the connection"),
                    Err(error) => tracing::warn!("the dataplane is lost: {error}"),
                }
                control.link.up.store(false, Ordering::Relaxed);
                control.watches.end_all();
                *control.link.stream.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            std::thread::sleep(RETRY);
        }
    });
}

fn serve(control: &Control, mut stream: UnixStream) -> std::io::Result<()> {
    let mut decoder = Decoder::default();
    stream.set_write_timeout(Some(STUCK))?;
    write(&mut stream, &ToDataplane::Hello { version: sluice_feed::VERSION })?;
    match decoder.read(&mut stream)? {
        Some(ToControl::Hello { version }) if version == sluice_feed::VERSION => {}
        _ => return Err(std::io::Error::other("it speaks another version of the feed")),
    }
    // Identities in use stay in use: before the snapshot, which would take them away.
    match decoder.read(&mut stream)? {
        Some(ToControl::Wanted { sets, whole }) => control.want_names(sets, whole),
        _ => return Err(std::io::Error::other("it did not say which names it knows")),
    }
    {
        // While this is held no delta can go out before its snapshot.
        let mut shared = control.link.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, changes)) = control.begin_anew() {
            for piece in chunks(generation, true, changes) {
                write(&mut stream, &piece)?;
            }
        }
        *shared = Some(stream.try_clone()?);
    }
    control.link.up.store(true, Ordering::Relaxed);
    tracing::info!("connected to the dataplane at {}", control.gateway.dataplane.socket.display());
    while let Some(message) = decoder.read(&mut stream)? {
        match message {
            ToControl::Hello { .. } => {}
            ToControl::Wanted { sets, whole } => control.want_names(sets, whole),
            ToControl::Ack { generation, microseconds } => control.acknowledge(generation, microseconds),
            ToControl::Nack { generation, why } => control.refuse(generation, why),
            ToControl::Events { events, lost } => control.hear(events, lost),
            ToControl::Seen { watch, now, packets, lost, done } => {
                control.watches.tell(watch, now, packets, lost, done);
            }
            ToControl::Answer { id, answer } => {
                if let Some(tell) = control.link.waiting().remove(&id) {
                    // Whoever asked may have gone.
                    drop(tell.send(answer));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use sluice_core::tables::record::RecordKey;

    use super::*;
    use crate::reconcile::tests::Lab;
    use crate::source::files::News;

    /// The other side of the connection.
    struct Dataplane {
        listener: UnixListener,
        stream: UnixStream,
        decoder: Decoder,
    }

    impl Dataplane {
        fn new(lab: &Lab) -> Self {
            let listener = UnixListener::bind(&lab.control.gateway.dataplane.socket).unwrap();
            start(Arc::clone(&lab.control));
            let stream = Self::greet(&listener);
            Self { listener, stream, decoder: Decoder::default() }
        }

        fn greet(listener: &UnixListener) -> UnixStream {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write(&mut stream, &ToControl::Hello { version: sluice_feed::VERSION }).unwrap();
            write(&mut stream, &ToControl::Wanted { sets: Vec::new(), whole: true }).unwrap();
            stream
        }

        /// Die, and come back.
        fn restart(&mut self) {
            drop(std::mem::replace(&mut self.stream, UnixStream::pair().unwrap().0));
            self.stream = Self::greet(&self.listener);
            self.decoder = Decoder::default();
        }

        /// The next generation: its number, and whether it is whole.
        fn delivery(&mut self) -> (u64, bool, Vec<Change>) {
            let mut all = Vec::new();
            loop {
                let message: Option<ToDataplane> = self.decoder.read(&mut self.stream).unwrap();
                if let Some(ToDataplane::Changes { generation, whole, last, changes }) = message {
                    all.extend(changes);
                    if last {
                        return (generation, whole, all);
                    }
                }
            }
        }

        fn say(&mut self, message: &ToControl) {
            write(&mut self.stream, message).unwrap();
        }

        fn acknowledge(&mut self, generation: u64) {
            self.say(&ToControl::Ack { generation, microseconds: 1 });
        }
    }

    fn eventually(holds: impl Fn() -> bool) -> bool {
        (0..500).any(|_| {
            holds() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        })
    }

    fn pod(ip: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: shop}}\nstatus: {{podIPs: [{{ip: {ip}}}]}}\n"
        )
    }

    #[test]
    fn a_dataplane_that_came_back_is_not_ready_before_everything_is_live_on_it() {
        let lab = Lab::new("anew");
        lab.control.take(News::Everything);
        let mut dataplane = Dataplane::new(&lab);
        let (generation, whole, _) = dataplane.delivery();
        assert!(whole && lab.control.ready().is_err());
        dataplane.acknowledge(generation);
        assert!(eventually(|| lab.control.ready().is_ok()));
        dataplane.restart();
        let (generation, ..) = dataplane.delivery();
        assert!(eventually(|| lab.control.link.is_up()));
        assert!(lab.control.ready().unwrap_err().contains("not live yet"));
        dataplane.acknowledge(generation);
        assert!(eventually(|| lab.control.ready().is_ok()));
    }

    #[test]
    fn after_a_refusal_the_next_generation_is_told_whole() {
        let lab = Lab::new("refused");
        lab.control.take(News::Everything);
        let mut dataplane = Dataplane::new(&lab);
        let (generation, ..) = dataplane.delivery();
        dataplane.acknowledge(generation);
        let one = lab.write("one.yaml", &pod("10.0.0.1"));
        lab.control.take(News::Files(vec![one]));
        let (refused, whole, _) = dataplane.delivery();
        assert!(!whole);
        // What was on its way is no proof that everything is there.
        let two = lab.write("two.yaml", &pod("10.0.0.2").replace("name: a", "name: b"));
        lab.control.take(News::Files(vec![two]));
        let (under_way, whole, _) = dataplane.delivery();
        assert!(!whole);
        dataplane.say(&ToControl::Nack { generation: refused, why: "no room".to_owned() });
        assert!(eventually(|| lab.control.world().refused.is_some()));
        dataplane.acknowledge(under_way);
        let three = lab.write("three.yaml", &pod("10.0.0.3").replace("name: a", "name: c"));
        lab.control.take(News::Files(vec![three]));
        let (generation, whole, changes) = dataplane.delivery();
        let has = |ip: &str| {
            let prefix = sluice_policy::decode::host(ip.parse().unwrap());
            changes.iter().any(|change| change.key() == RecordKey::Address(prefix))
        };
        assert!(whole && has("10.0.0.1") && has("10.0.0.2") && has("10.0.0.3"));
        assert!(lab.control.ready().is_err() && lab.control.world().refused.is_some());
        dataplane.acknowledge(generation);
        assert!(eventually(|| lab.control.ready().is_ok() && lab.control.world().refused.is_none()));
    }

    #[test]
    fn a_connection_that_takes_nothing_more_is_made_anew() {
        let lab = Lab::new("broken");
        lab.control.take(News::Everything);
        let mut dataplane = Dataplane::new(&lab);
        dataplane.delivery();
        assert!(eventually(|| lab.control.link.is_up()));
        // It still has ears, in a manner of speaking, but it hears nothing.
        dataplane.stream.shutdown(Shutdown::Read).unwrap();
        let file = lab.write("one.yaml", &pod("10.0.0.1"));
        lab.control.take(News::Files(vec![file]));
        dataplane.listener.set_nonblocking(true).unwrap();
        assert!(eventually(|| dataplane.listener.accept().is_ok()), "it does not come again");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn questions_that_nobody_hears_leave_nothing_behind() {
        let link = Link::default();
        for _ in 0..3 {
            assert!(link.ask(Question::Status).await.unwrap_err().contains("not connected"));
        }
        assert!(link.waiting().is_empty());
    }
}
