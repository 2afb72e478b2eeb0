//! Mail over links, down to files and to real and scripted servers. Run as root: storing takes becoming others.
//!
//! A `Lab` is a home_root in a temporary folder; `u1` to `u9` have a uid each. The front's half is a `Transfer` over a
//! socket pair, or the octets that one would send. Links are opened elsewhere: what they carry begins behind the verdict.

mod dovecot;
mod links;
mod maildir;
mod scripted;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    time::Duration,
};

use tokio::{join, net::UnixStream};

use super::*;
use crate::{
    lmtp::{Begun, TransferError},
    names::{AccountName, ClientAddr},
    net::Address as Endpoint,
    proto::lmtp::{Address, Body, Fate, Reply},
    spool,
};

const FIRST_UID: u32 = 20_300;
const MAIL: &[u8] = b"Subject: x\r\n\r\n.body\r\n";

/// Longer than any sound test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    root: tempfile::TempDir,
    metrics: Metrics,
    tasks: Tasks,
}

impl Lab {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests become other users: run them as root"
        );
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            root,
            metrics: Metrics::new().unwrap(),
            tasks: Tasks::new(),
        }
    }

    fn mailstore_with(&self, change: impl FnOnce(&mut Settings)) -> Mailstore {
        let mut settings = Settings {
            kind: Kind::Maildir(MaildirSettings {
                folder: "Maildir".to_owned(),
                threads: 3,
                over_quota_is_permanent: false,
                spool: spool::Settings::default(),
            }),
            hostname: "node1".to_owned(),
            max_message_bytes: 100_000,
            max_recipients: 1000,
            idle_timeout: PATIENCE,
            data_timeout: PATIENCE,
            store_timeout: PATIENCE,
        };
        change(&mut settings);
        Mailstore::assemble(Parts {
            settings,
            bounds: Bounds {
                uids: FIRST_UID..=FIRST_UID + 99,
                gids: FIRST_UID..=FIRST_UID + 99,
                home_root: self.root.path().to_owned(),
            },
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
        })
        .unwrap()
    }

    /// One that stores by the server at this address.
    fn before(&self, server: Endpoint, naming: Naming) -> Mailstore {
        self.mailstore_with(|settings| {
            settings.kind = Kind::Lmtp(ServerSettings {
                server,
                recipient: naming,
                recipient_delimiter: "+".to_owned(),
                server_timeout: PATIENCE,
            });
        })
    }

    /// Everything in a user's `new`.
    fn mail(&self, user: &str) -> Vec<PathBuf> {
        match fs::read_dir(self.root.path().join(user).join("Maildir/new")) {
            Ok(folder) => folder.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// How many recipients were counted so.
    fn counted(&self, kind: &str, result: &str) -> u64 {
        self.metrics.stored.with_label_values(&[kind, result]).get()
    }
}

impl Mailstore {
    /// A link to it, as far as LMTP goes, and its service.
    fn link(&self) -> (UnixStream, impl Future<Output = ()> + use<>) {
        let (front, node) = UnixStream::pair().unwrap();
        let mailstore = self.clone();
        let session = SessionId::parse("opener").unwrap();
        let key = KeyId::parse("proxy1").unwrap();
        let serve = async move { mailstore.converse(Stream::Unix(node), session, key).await };
        (front, serve)
    }

    /// What a front does over one link.
    async fn with_front<T>(&self, work: impl AsyncFnOnce(&mut Transfer) -> T) -> T {
        let (front, serve) = self.link();
        let work = async {
            let mut front = greet(Stream::Unix(front)).await.unwrap();
            let result = work(&mut front).await;
            front.quit().await;
            result
        };
        timeout(PATIENCE, async { join!(work, serve).0 })
            .await
            .expect("out of patience")
    }
}

async fn greet(stream: Stream) -> Result<Transfer, TransferError> {
    let settings = client::Settings {
        hostname: "front".to_owned(),
        line_ends: LineEnds::Exact,
        private: Some(KEYWORD),
    };
    Transfer::greet(stream, settings, Timeouts::default()).await
}

fn message_facts(hops: u8) -> MessageFacts {
    MessageFacts {
        session: SessionId::parse("session").unwrap(),
        client: ClientAddr(SocketAddr::from(([192, 0, 2, 1], 25))),
        hops,
    }
}

/// Somebody by the number in the name: `u3@a.example` has the home `u3`, and so has `u3+detail@a.example`.
fn recipient_facts(address: &str) -> RecipientFacts {
    let name = address.split(['@', '+']).next().unwrap();
    let number: u32 = name
        .trim_start_matches(char::is_alphabetic)
        .parse()
        .unwrap();
    RecipientFacts {
        account: AccountName::parse(name).unwrap(),
        uid: FIRST_UID + number,
        gid: FIRST_UID + number,
        home: name.to_owned(),
        quota: None,
    }
}

fn recipient(address: &str, facts: &RecipientFacts) -> Recipient {
    Recipient {
        address: Address::parse(address).unwrap(),
        private: Some(facts.encode().unwrap()),
    }
}

fn envelope(addresses: &[&str]) -> Envelope<Recipient> {
    let recipients = addresses
        .iter()
        .map(|address| recipient(address, &recipient_facts(address)));
    Envelope {
        sender: Some(Address::parse("sue@b.example").unwrap()),
        recipients: recipients.collect(),
        size: None,
        body: Body::SevenBit,
        smtputf8: false,
        private: Some(message_facts(1).encode()),
    }
}

/// Sends one message; each fate as its reply's codes.
async fn send(front: &mut Transfer, envelope: Envelope<Recipient>, message: &[u8]) -> Vec<String> {
    let fates = match front.begin(envelope).await.unwrap() {
        Begun::Data => {
            for piece in message.chunks(1000) {
                front.body(piece).await.unwrap();
            }
            front.finish().await.unwrap()
        }
        Begun::Done(fates) => fates,
    };
    fates.into_iter().map(codes).collect()
}

fn codes(fate: Fate) -> String {
    let of = |reply: Reply| reply.to_string().chars().take(9).collect();
    match fate {
        Fate::Delivered(reply) | Fate::Permanent(reply) | Fate::Temporary(reply) => of(reply),
        Fate::Broken => "broken".to_owned(),
        Fate::Uncertain => "uncertain".to_owned(),
    }
}

const STORED: &str = "250 2.0.0";
