//! The connection to the dataplane: made again whenever it is lost, a snapshot first each time.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_core::tables::record::Change;
use sluice_feed::codec::{Decoder, write};
use sluice_feed::message::{Answer, Question, ToControl, ToDataplane, chunks};
use tokio::sync::oneshot;

use crate::reconcile::Control;

const RETRY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);

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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, tell);
        {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            let open = stream.as_mut().ok_or("the dataplane is not connected")?;
            write(open, &ToDataplane::Ask { id, question }).map_err(|error| error.to_string())?;
        }
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err("the dataplane did not answer in time".to_owned()),
        }
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
        if let Some((generation, changes)) = control.snapshot() {
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
                let waiting = control.link.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(tell) = waiting {
                    // Whoever asked may have gone.
                    drop(tell.send(answer));
                }
            }
        }
    }
    Ok(())
}
