//! An MTA that does nothing but send.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection to an LMTP server.
pub(crate) struct Load {
    stream: BufReader<TcpStream>,
    recipient: String,
}

impl Load {
    /// Connects and says LHLO.
    pub(crate) fn connect(address: SocketAddr, recipient: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut load = Self {
            stream: BufReader::new(stream),
            recipient: recipient.to_owned(),
        };
        load.expect("220");
        load.say("LHLO bench.example\r\n");
        load.expect("250");
        load
    }

    /// Sends that many messages of that many octets, one after the other.
    pub(crate) fn send(&mut self, messages: usize, octets: usize) {
        let message = message(octets);
        let envelope = format!(
            "MAIL FROM:<bench@example.org>\r\nRCPT TO:<{}>\r\nDATA\r\n",
            self.recipient
        );
        for _ in 0..messages {
            self.say(&envelope);
            for code in ["250", "250", "354"] {
                self.expect(code);
            }
            self.say(&message);
            self.expect("250");
        }
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn expect(&mut self, code: &str) {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            assert!(line.starts_with(code), "expected {code}, got {line:?}");
            if !line.starts_with(&format!("{code}-")) {
                return;
            }
        }
    }
}

/// A message with its final dot.
fn message(octets: usize) -> String {
    let mut text = "From: <bench@example.org>\r\nSubject: bench\r\n\r\n".to_owned();
    while text.len() < octets {
        text.push_str(
            "The quick brown fox jumps over the lazy dog, and then does it once more.\r\n",
        );
    }
    text.push_str(".\r\n");
    text
}
