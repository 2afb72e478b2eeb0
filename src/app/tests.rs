//! What a node answers to links for which it has no role, and says of them.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::UnixListener, time::timeout};

use super::node::Services;
use crate::{
    link::{
        AdmitSettings, Admitted, Admitter, DialSettings, Dialer, Gate, GateParts, LinkError,
        NodeKey,
    },
    metrics::Metrics,
    names::{AccountName, ClientAddr, KeyId, LocalAddr, NodeName, Protocol, Service, SessionId},
    net::Address,
    nodes::{self, Node},
    proto::link::{Context, MailContext, Refusal},
    secret::Key,
    tasks::Tasks,
};

/// Longer than any sound test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gate(tasks: &Tasks) -> Gate {
    let metrics = Metrics::new().unwrap();
    let settings = AdmitSettings {
        node: NodeName::parse("node1").unwrap(),
        keys: vec![NodeKey {
            id: KeyId::parse("front1").unwrap(),
            key: Key::new([7; 32]),
            services: vec![Service::Imap, Service::Mailstore],
            from: Vec::new(),
            not_after: None,
        }],
        max_unproven: 16,
        prove_timeout: PATIENCE * 2,
        idle_limit: PATIENCE * 2,
    };
    Gate::new(GateParts {
        from: Vec::new(),
        peers: vec![rustix::process::geteuid().as_raw()],
        admitter: Admitter::new(settings, metrics.clone()).unwrap(),
        metrics,
        tasks: tasks.clone(),
    })
}

fn context(session: SessionId) -> Context {
    Context {
        account: AccountName::parse("ann").unwrap(),
        session,
        client: ClientAddr("192.0.2.77:4242".parse().unwrap()),
        local: LocalAddr("192.0.2.1:143".parse().unwrap()),
        protocol: Protocol::Imap,
        tls: None,
        uid: 1001,
        gid: 1001,
        home: "ann".to_owned(),
        quota: None,
        hops: 0,
    }
}

#[tokio::test]
async fn links_without_a_role_are_refused_and_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .finish();
    // With a single subscriber in the process, tracing lets whichever thread comes first decide for all whether an event is
    // wanted, and the other tests' threads want none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let path = dir.path().join("link.sock");
    let serve = |admitted: Admitted, permit| {
        let nothing = Services {
            acceptor: None,
            mailstore: None,
        };
        nothing.serve(admitted, permit)
    };
    let listener = UnixListener::bind(&path).unwrap();
    tasks.spawn("listener", gate(&tasks).listen_unix(listener, serve));
    let node = Node {
        name: NodeName::parse("node1").unwrap(),
        hosts: Vec::new(),
        address: Address::Unix(path),
        source: None,
        key_id: KeyId::parse("front1").unwrap(),
        key: Key::new([7; 32]),
        tls: false,
        probe_login: None,
    };
    let nodes = nodes::Settings {
        nodes: vec![node.clone()],
        default: None,
    };
    let settings = DialSettings {
        ready: 0,
        ..DialSettings::default()
    };
    let dialer = Dialer::new(&nodes, settings, Metrics::new().unwrap(), tasks.clone()).unwrap();
    let [one, two] = ["one", "two"].map(|id| SessionId::parse(id).unwrap());
    let session = timeout(PATIENCE, dialer.open(&node, &context(one))).await;
    let mail = MailContext { session: two };
    let mail = timeout(PATIENCE, dialer.open_mail(&node, &mail)).await;
    for refused in [session.unwrap().map(drop), mail.unwrap().map(drop)] {
        assert!(
            matches!(refused, Err(LinkError::Refused(Refusal::Unavailable))),
            "{refused:?}"
        );
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for (session, service) in [("one", "imap"), ("two", "mailstore")] {
        let line = format!(
            "link refused session={session} key=front1 service=\"{service}\" reason=\"service is not served here\""
        );
        assert_eq!(log.matches(&line).count(), 1, "{log}");
    }
}
