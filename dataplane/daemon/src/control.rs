//! Control's connection: takes what it says, gives what it asks for.

use std::io::{ErrorKind, Read, Write};

use mio::net::UnixStream;
use sluice_core::tables::record::Change;
use sluice_feed::codec::{Decoder, encode};
use sluice_feed::message::{Answer, Question, ToControl, ToDataplane};

/// Bytes that wait for a slow control process; beyond this, events are dropped and counted.
const MOST_WAITING: usize = 8 << 20;

/// A whole generation, or the difference to one.
#[derive(Debug)]
pub struct Delivery {
    pub generation: u64,
    pub whole: bool,
    pub changes: Vec<Change>,
}

/// What control wants.
#[derive(Debug)]
pub enum Request {
    Delivery(Delivery),
    Ask(u32, Question),
    /// It said hello, and was greeted.
    Hello,
}

#[derive(Debug)]
pub struct Connection {
    pub stream: UnixStream,
    decoder: Decoder,
    waiting: Vec<u8>,
    pieces: Vec<Change>,
    greeted: bool,
    pub lost_events: u64,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            waiting: Vec::new(),
            pieces: Vec::new(),
            greeted: false,
            lost_events: 0,
        }
    }

    /// Everything that has come. `Err`: the connection is over, and why.
    pub fn requests(&mut self) -> Result<Vec<Request>, String> {
        let mut buffer = [0; 64 << 10];
        let mut requests = Vec::new();
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("control closed the connection".to_owned()),
                Ok(n) => {
                    self.decoder.feed(&buffer[..n]);
                    while let Some(message) = self.decoder.message().map_err(|error| error.to_string())? {
                        requests.extend(self.take(message)?);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(requests),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn take(&mut self, message: ToDataplane) -> Result<Option<Request>, String> {
        match message {
            ToDataplane::Hello { version } if version == sluice_feed::VERSION => {
                self.greeted = true;
                self.send(&ToControl::Hello { version: sluice_feed::VERSION });
                Ok(Some(Request::Hello))
            }
            ToDataplane::Hello { version } => {
                Err(format!("control speaks version {version} of the feed, this is {}", sluice_feed::VERSION))
            }
            _ if !self.greeted => Err("control did not say hello".to_owned()),
            ToDataplane::Changes { generation, whole, last, changes } => {
                self.pieces.extend(changes);
                let whole_list = last.then(|| std::mem::take(&mut self.pieces));
                Ok(whole_list.map(|changes| Request::Delivery(Delivery { generation, whole, changes })))
            }
            ToDataplane::Ask { id, question } => Ok(Some(Request::Ask(id, question))),
        }
    }

    /// Send now, or as soon as the other side takes it.
    pub fn send(&mut self, message: &ToControl) {
        let bytes = encode(message).or_else(|error| {
            tracing::error!("a message to control could not be written: {error}");
            // Whoever asked waits for an answer.
            if let ToControl::Answer { id, .. } = message {
                let answer = Answer::Failed(format!("{error}; ask for less"));
                return encode(&ToControl::Answer { id: *id, answer });
            }
            Err(error)
        });
        self.waiting.extend(bytes.unwrap_or_default());
        self.flush();
    }

    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Is there so much waiting already that events had better be dropped?
    pub fn is_slow(&self) -> bool {
        self.waiting.len() > MOST_WAITING
    }

    pub fn flush(&mut self) {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What waits goes with the next turn; a broken connection shows when it is read.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_more_than_a_message_holds_is_told_so() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(UnixStream::from_std(ours));
        let answer = Answer::Names("x".repeat(sluice_feed::codec::LIMIT));
        connection.send(&ToControl::Answer { id: 7, answer });
        drop(connection);
        let (mut bytes, mut decoder) = (Vec::new(), Decoder::default());
        (&theirs).read_to_end(&mut bytes).unwrap();
        decoder.feed(&bytes);
        let Some(ToControl::Answer { id: 7, answer: Answer::Failed(why) }) = decoder.message().unwrap()
        else {
            panic!("no answer in {} bytes", bytes.len())
        };
        assert!(why.contains("beyond the limit"), "{why}");
    }
}
