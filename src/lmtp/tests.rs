//! Both halves over real sockets: against each other, and against peers that break off, are silent or speak too early.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    join,
    net::UnixStream,
};

use super::*;
use crate::{
    net::Stream,
    proto::lmtp::{
        Address, Body, Cause, Closed, Envelope, Event, Fate, LineEnds, Recipient, Reply, Settings,
        client,
    },
};

const SHORT: Timeouts = Timeouts {
    command: Duration::from_secs(5),
    data: Duration::from_secs(7),
    answer: Duration::from_secs(11),
};

fn pair() -> (Stream, UnixStream) {
    let (one, two) = UnixStream::pair().unwrap();
    (Stream::Unix(one), two)
}

fn client_settings() -> client::Settings {
    client::Settings {
        hostname: "front".to_owned(),
        line_ends: LineEnds::Exact,
        private: None,
    }
}

fn envelope(recipients: &[&str]) -> Envelope<Recipient> {
    let address = |text: &&str| Recipient {
        address: Address::parse(text).unwrap(),
        private: None,
    };
    Envelope {
        sender: None,
        recipients: recipients.iter().map(address).collect(),
        size: None,
        body: Body::SevenBit,
        smtputf8: false,
        private: None,
    }
}

/// Everything of the message, in pieces.
async fn send(transfer: &mut Transfer, message: &[u8]) -> Result<Vec<Fate>, TransferError> {
    for piece in message.chunks(60_000) {
        transfer.body(piece).await?;
    }
    transfer.finish().await
}

/// Takes everybody but eve, and answers with what was heard of the message, until QUIT.
async fn receive(stream: Stream) -> (Vec<usize>, Result<Closed, Interrupted>) {
    let mut reception = Reception::new(stream, Settings::default(), SHORT);
    let (mut size, mut sizes, mut count) = (0, Vec::new(), 0);
    loop {
        match reception.next().await {
            Ok(Event::Recipient(recipient)) if recipient.address.local() == "eve" => {
                reception.refuse(&Cause::NoSuchUser.reply());
            }
            Ok(Event::Recipient(_)) => reception.accept_recipient(()),
            Ok(Event::Begin(envelope)) => {
                (size, count) = (0, envelope.recipients.len());
                reception.accept_message();
            }
            Ok(Event::Body(octets)) => size += octets.len(),
            Ok(Event::End) => {
                sizes.push(size);
                for at in 0..count {
                    if at == 1 {
                        reception.answer(&Cause::DiskFull.reply());
                    } else {
                        reception.answer(&Reply::delivered("Stored."));
                    }
                }
            }
            Ok(Event::Close(closed)) => return (sizes, Ok(closed)),
            Ok(Event::Discard(_) | Event::More) => panic!("unexpected"),
            Err(error) => return (sizes, Err(error)),
        }
    }
}

#[tokio::test]
async fn messages_pass_from_half_to_half() {
    let (one, two) = pair();
    let large = vec![b'.'; 5_000_000];
    let sending = async {
        let mut transfer = Transfer::greet(one, client_settings(), SHORT)
            .await
            .unwrap();
        for message in [&b"a\r\n"[..], b"", &large, b".\r\n"] {
            let begun = transfer
                .begin(envelope(&["ann", "eve", "bob", "joe"]))
                .await;
            assert!(matches!(begun, Ok(Begun::Data)));
            let fates = send(&mut transfer, message).await.unwrap();
            assert!(matches!(
                fates.as_slice(),
                [
                    Fate::Delivered(_),
                    Fate::Permanent(_),
                    Fate::Temporary(_),
                    Fate::Delivered(_)
                ]
            ));
            assert!(transfer.is_open());
            // What waits for the next message holds next to nothing.
            assert_eq!(transfer.held(), 0);
        }
        let begun = transfer.begin(envelope(&["eve", "eve"])).await.unwrap();
        let Begun::Done(fates) = begun else {
            panic!("{begun:?}")
        };
        assert!(matches!(
            fates.as_slice(),
            [Fate::Permanent(_), Fate::Permanent(_)]
        ));
        transfer.quit().await;
    };
    let ((), (sizes, end)) = join!(sending, receive(Stream::Unix(two)));
    // A message without a line end gets one.
    assert_eq!(sizes, [3, 0, large.len() + 2, 3]);
    assert_eq!(end.unwrap(), Closed::Quit);
}

const SERVER: &str = "220 node\r\n250-node\r\n250 PIPELINING\r\n\
    250 2.1.0 OK\r\n250 2.1.5 OK\r\n250 2.1.5 OK\r\n354 Go on\r\n\
    250 2.0.0 Stored\r\n250 2.0.0 Stored\r\n";

/// What is known when the server says no more than the script, and closes.
async fn fates_of(script: &str) -> Option<Vec<Fate>> {
    let (one, mut two) = pair();
    let data = SERVER.find("250 2.0.0").unwrap();
    let (before, behind) = script.split_at(data.min(script.len()));
    let server = async {
        two.write_all(before.as_bytes()).await.unwrap();
        let mut heard = String::new();
        while !behind.is_empty() && !heard.ends_with("\r\n.\r\n") {
            let mut octets = [0; 1024];
            let count = two.read(&mut octets).await.unwrap();
            assert!(count > 0, "{heard}");
            heard += std::str::from_utf8(&octets[..count]).unwrap();
        }
        two.write_all(behind.as_bytes()).await.unwrap();
        two.shutdown().await.unwrap();
        two.read_to_string(&mut heard).await.unwrap();
        heard
    };
    let sending = async {
        let mut transfer = Transfer::greet(one, client_settings(), SHORT).await.ok()?;
        match transfer.begin(envelope(&["ann", "bob"])).await {
            Ok(Begun::Data) => {}
            Ok(Begun::Done(fates)) => return Some(fates),
            Err(_) => return Some(transfer.broken()),
        }
        match send(&mut transfer, b"text\r\n").await {
            Ok(fates) => Some(fates),
            Err(_) => Some(transfer.broken()),
        }
    };
    let (fates, heard) = join!(sending, server);
    if !heard.contains("\r\n.\r\n") {
        let mut none = fates.iter().flatten();
        assert!(none.all(|fate| matches!(fate, Fate::Broken)), "{heard}");
    }
    fates
}

#[tokio::test]
async fn a_server_that_breaks_off_anywhere_has_delivered_only_what_it_said() {
    let greeted = SERVER.find("250 2.1.0").unwrap();
    let data = SERVER.find("250 2.0.0").unwrap();
    let first = data + SERVER[data..].find('\n').unwrap() + 1;
    for at in 0..=SERVER.len() {
        let fates = fates_of(&SERVER[..at]).await;
        let words: Vec<_> = fates
            .iter()
            .flatten()
            .map(|fate| match fate {
                Fate::Broken => "broken",
                Fate::Delivered(_) => "delivered",
                Fate::Uncertain => "uncertain",
                Fate::Permanent(_) | Fate::Temporary(_) => "refused",
            })
            .collect();
        let expected: &[&str] = match at {
            _ if at < greeted => &[],
            _ if at < data => &["broken", "broken"],
            _ if at < first => &["uncertain", "uncertain"],
            _ if at < SERVER.len() => &["delivered", "uncertain"],
            _ => &["delivered", "delivered"],
        };
        assert_eq!(words, expected, "{:?}", &SERVER[..at]);
    }
}

const CLIENT: &str = "LHLO front\r\nMAIL FROM:<>\r\nRCPT TO:<ann>\r\nDATA\r\ntext\r\n.\r\n";

#[tokio::test]
async fn a_client_that_breaks_off_anywhere_leaves_no_message_without_its_dot() {
    for at in 0..=CLIENT.len() {
        let (one, mut two) = pair();
        let client = async {
            two.write_all(&CLIENT.as_bytes()[..at]).await.unwrap();
            two.shutdown().await.unwrap();
            let mut heard = String::new();
            two.read_to_string(&mut heard).await.unwrap();
            heard
        };
        let ((sizes, end), heard) = join!(receive(one), client);
        let whole = at == CLIENT.len();
        assert_eq!(sizes.len(), usize::from(whole), "{at}");
        assert_eq!(heard.contains("Stored"), whole, "{heard}");
        assert!(matches!(end, Err(Interrupted::Closed)), "{at}");
    }
}

/// A server that says this before it has read the message, then reads no more; it closes if `closes`.
async fn interrupted(last: &str, closes: bool) -> (Result<Vec<Fate>, TransferError>, Vec<Fate>) {
    let (one, mut two) = pair();
    let at = SERVER.find("354").unwrap();
    let server = async {
        two.write_all(&SERVER.as_bytes()[..at]).await.unwrap();
        let (mut octets, mut heard) = ([0; 1024], Vec::new());
        while !heard.ends_with(b"DATA\r\n") {
            let count = two.read(&mut octets).await.unwrap();
            assert!(count > 0);
            heard.extend_from_slice(&octets[..count]);
        }
        let rest = format!("354 Go on\r\n{last}");
        two.write_all(rest.as_bytes()).await.unwrap();
        if closes {
            drop(two);
            None
        } else {
            Some(two)
        }
    };
    let sending = async {
        let mut transfer = Transfer::greet(one, client_settings(), SHORT)
            .await
            .unwrap();
        transfer.begin(envelope(&["ann", "bob"])).await.unwrap();
        let result = send(&mut transfer, &[b'x'; 3_000_000]).await;
        assert!(!transfer.is_open());
        (result, transfer.broken())
    };
    let (end, _open) = join!(sending, server);
    end
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_before_the_dot_is_heard() {
    for closes in [false, true] {
        for last in ["452 4.3.1 Disk full\r\n", "421 4.3.2 Going down\r\n"] {
            let (result, _) = interrupted(last, closes).await;
            let fates = result.unwrap();
            assert_eq!(fates.len(), 2);
            for fate in fates {
                let Fate::Temporary(reply) = fate else {
                    panic!("{fate:?}")
                };
                assert!(last.contains(reply.text()));
            }
        }
        // Nobody has it before its dot, whatever is said.
        let (result, fates) = interrupted("250 2.0.0 Stored\r\n", closes).await;
        assert!(matches!(result, Err(TransferError::Protocol(_))));
        assert_eq!(fates, [Fate::Broken, Fate::Broken]);
    }
    let (result, fates) = interrupted("", true).await;
    assert!(matches!(
        result,
        Err(TransferError::Closed | TransferError::Io(_))
    ));
    assert_eq!(fates, [Fate::Broken, Fate::Broken]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_more_has_its_time() {
    let (result, fates) = interrupted("", false).await;
    assert!(matches!(result, Err(TransferError::TimedOut)));
    assert_eq!(fates, [Fate::Broken, Fate::Broken]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_has_its_time_at_every_step() {
    for (said, seconds) in [
        ("", SHORT.command),
        ("250 2.1.0", SHORT.command),
        ("354 Go", SHORT.command),
        ("250 2.0.0", SHORT.answer),
    ] {
        let at = SERVER.find(said).unwrap();
        let (one, mut two) = pair();
        two.write_all(&SERVER.as_bytes()[..at]).await.unwrap();
        let begun = tokio::time::Instant::now();
        let error = async {
            let mut transfer = Transfer::greet(one, client_settings(), SHORT).await?;
            transfer.begin(envelope(&["ann", "bob"])).await?;
            send(&mut transfer, b"text\r\n").await
        };
        assert!(
            matches!(error.await, Err(TransferError::TimedOut)),
            "{said}"
        );
        assert_eq!(begun.elapsed().as_secs(), seconds.as_secs(), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_has_its_time_at_every_step() {
    let data = CLIENT.find("text").unwrap();
    for (at, limit) in [
        (0, SHORT.command),
        (CLIENT.find("RCPT").unwrap(), SHORT.command),
        (data, SHORT.data),
        (data + 3, SHORT.data),
        (CLIENT.len(), SHORT.command),
    ] {
        let (one, mut two) = pair();
        two.write_all(&CLIENT.as_bytes()[..at]).await.unwrap();
        let begun = tokio::time::Instant::now();
        let (_, end) = receive(one).await;
        assert!(matches!(end, Err(Interrupted::TimedOut)), "{at}");
        assert_eq!(begun.elapsed().as_secs(), limit.as_secs(), "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_not_answered_without_end() {
    let (one, mut two) = pair();
    let flood = async {
        let line = b"LHLO x\r\n".repeat(10_000);
        while two.write_all(&line).await.is_ok() {}
    };
    let mut reception = Reception::<()>::new(one, Settings::default(), SHORT);
    let reading = async {
        let end = reception.next().await.err();
        let held = reception.held();
        drop(reception);
        (end, held)
    };
    let ((end, held), ()) = join!(reading, flood);
    assert!(matches!(end, Some(Interrupted::TimedOut)));
    assert!(held < 256 * 1024, "{held}");
}

#[tokio::test]
async fn a_reception_that_waits_holds_little() {
    let (one, mut two) = pair();
    let mut reception = Reception::new(one, Settings::default(), SHORT);
    let large = [b'x'; 500_000];
    let talk = async {
        let (open, close) = CLIENT.split_at(CLIENT.find("text").unwrap());
        two.write_all(open.as_bytes()).await.unwrap();
        two.write_all(&large).await.unwrap();
        two.write_all(format!("\r\n{close}NOOP\r\n").as_bytes())
            .await
            .unwrap();
        let mut heard = String::new();
        while !heard.ends_with("2.0.0 OK\r\n") {
            let mut octets = [0; 4096];
            let count = two.read(&mut octets).await.unwrap();
            heard += std::str::from_utf8(&octets[..count]).unwrap();
        }
    };
    let receive = async {
        loop {
            match reception.next().await {
                Ok(Event::Recipient(_)) => reception.accept_recipient(()),
                Ok(Event::Begin(_)) => reception.accept_message(),
                Ok(Event::End) => reception.answer(&Reply::delivered("Stored.")),
                Ok(Event::Body(_)) => {}
                _ => break,
            }
        }
    };
    tokio::select! {
        () = talk => {}
        () = receive => panic!("it waits for more"),
    }
    assert!(reception.held() <= 16 * 1024, "{}", reception.held());
}
