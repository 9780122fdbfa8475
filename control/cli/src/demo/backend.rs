//! The lab's web server: says its name to whoever asks. One thread a connection, for the demo only.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

pub fn serve(name: &str, port: u16) -> Result<()> {
    let listener =
        TcpListener::bind(("::", port)).with_context(|| format!("cannot listen on port {port}"))?;
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        std::thread::spawn(move || answer(stream, &name));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str) {
    // A client that goes away or says nothing costs one thread for a second, and nobody else.
    drop(stream.set_read_timeout(Some(Duration::from_secs(1))));
    let mut head = [0; 2048];
    let mut length = 0;
    while let Ok(n) = stream.read(&mut head[length..]) {
        length += n;
        if n == 0 || length == head.len() || head[..length].windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    let body = format!("{name}\n");
    let response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    drop(stream.write_all(response.as_bytes()));
}
