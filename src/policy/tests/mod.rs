//! Questions to servers that answer and servers that do not, and to one that a real Dovecot asks besides.

mod dovecot;
mod server;

use std::time::Instant;

use self::server::{Manner, Server};
use super::*;
use crate::secret::Secret;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a server has in these tests.
const TIMEOUT: Duration = Duration::from_millis(300);

fn settings(url: &str) -> Settings {
    Settings {
        url: Url::parse(url).unwrap(),
        ca_file: None,
        header: Header::parse(&Secret::new(b"X-Test: of ours".to_vec())),
        nonce: Secret::new(b"nonce".to_vec()),
        hash_bits: 12,
        check_before: true,
        report_after: true,
        timeout: TIMEOUT,
        on_failure: OnFailure::Reject,
        max_tarpit: Duration::from_secs(30),
    }
}

fn start(settings: Settings) -> Policy {
    Policy::new(settings, Metrics::new().unwrap(), Tasks::new()).unwrap()
}

async fn pair(manner: Manner) -> (Server, Policy) {
    let server = Server::start(manner, None).await;
    let policy = start(settings(&format!("http://{}/", server.address)));
    (server, policy)
}

/// Ann's try from a network for documentation.
struct Ann {
    login: Login,
    password: Secret,
    session: SessionId,
}

impl Ann {
    fn new() -> Self {
        Self {
            login: Login::parse("ann").unwrap(),
            password: Secret::new(b"secret".to_vec()),
            session: SessionId::parse("session").unwrap(),
        }
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            login: &self.login,
            password: &self.password,
            client: "192.0.2.7".parse().unwrap(),
            protocol: Protocol::Imap,
            session: &self.session,
            tls: true,
        }
    }
}

async fn ask(policy: &Policy) -> Verdict {
    policy.allow(&Ann::new().attempt()).await
}

fn counted(policy: &Policy, command: &str, result: &str) -> u64 {
    let requests = &policy.0.common.metrics.policy_requests;
    requests.with_label_values(&[command, result]).get()
}

async fn eventually(what: &str, fact: impl Fn() -> bool) {
    let start = Instant::now();
    while !fact() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn verdicts_are_numbers() {
    let (server, policy) = pair(Manner::Says("{}")).await;
    for (answer, verdict) in [
        (r#"{"status":0,"msg":""}"#, Verdict::Accept),
        (
            r#"{"status":3,"msg":""}"#,
            Verdict::Tarpit(Duration::from_secs(3)),
        ),
        (
            r#"{"status":1000000}"#,
            Verdict::Tarpit(Duration::from_secs(30)),
        ),
        (
            r#"{"status":-1,"msg":"no\nmore"}"#,
            Verdict::Reject("no more".to_owned()),
        ),
        (r#"{"status":-7}"#, Verdict::Reject(String::new())),
    ] {
        server.be(Manner::Says(answer));
        assert_eq!(ask(&policy).await, verdict, "{answer}");
    }
    assert_eq!(counted(&policy, "allow", "tarpit"), 2);
    assert_eq!(counted(&policy, "allow", "reject"), 2);
    // All of it over one connection, and every request with our header.
    assert_eq!(server.connections(), 1);
    for heard in server.heard() {
        assert_eq!(heard.target, "/?command=allow");
        assert_eq!(heard.header.as_deref(), Some("of ours"));
    }
}

#[tokio::test]
async fn whoever_does_not_answer_has_not_answered() {
    for manner in [
        Manner::Says(""),
        Manner::Says("{}"),
        Manner::Says("{\"status\":\"0\"}"),
        Manner::Says("<html>"),
        Manner::Status(500),
        Manner::Status(404),
        Manner::Status(101),
        Manner::Redirects,
        Manner::Huge(64 * 1024 + 1),
        Manner::Slow(Duration::from_secs(60)),
        Manner::Hangs,
        Manner::Header,
        Manner::Garbage,
        Manner::Half,
    ] {
        let (server, policy) = pair(manner).await;
        let verdict = ask(&policy).await;
        assert!(
            matches!(verdict, Verdict::Unknown(_)),
            "{manner:?}: {verdict:?}"
        );
        assert_eq!(counted(&policy, "allow", "failed"), 1, "{manner:?}");
        // Nobody was sent elsewhere.
        assert_eq!(server.heard().len(), 1, "{manner:?}");
        let mut lenient = policy.0.common.settings.clone();
        lenient.on_failure = OnFailure::Accept;
        assert_eq!(ask(&start(lenient)).await, Verdict::Accept, "{manner:?}");
    }
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_whole() {
    let (server, policy) = pair(Manner::Huge(64 * 1024)).await;
    // Blanks alone are no answer; but they were all taken, and the connection is kept.
    assert_eq!(
        ask(&policy).await,
        Verdict::Unknown("the answer is malformed".to_owned())
    );
    server.be(Manner::Says("{\"status\":0}"));
    assert_eq!(ask(&policy).await, Verdict::Accept);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_replaced() {
    let (server, policy) = pair(Manner::Once).await;
    for number in 1..4 {
        assert_eq!(ask(&policy).await, Verdict::Accept);
        assert_eq!(server.connections(), number);
    }
    assert_eq!(counted(&policy, "allow", "accept"), 3);
}

#[tokio::test]
async fn a_dead_server_costs_three_logins_their_time_and_the_others_nothing() {
    let (server, policy) = pair(Manner::Slow(Duration::from_secs(60))).await;
    for _ in 0..3 {
        assert_eq!(
            ask(&policy).await,
            Verdict::Unknown("no answer in time".to_owned())
        );
    }
    for _ in 0..100 {
        let verdict = ask(&policy.for_worker()).await;
        assert_eq!(
            verdict,
            Verdict::Unknown("the policy server is away".to_owned())
        );
    }
    assert_eq!(server.heard().len(), 3);
    assert_eq!(counted(&policy, "allow", "skipped"), 100);
    // Reports are another matter.
    server.be(Manner::Says("ok"));
    policy.report(&Ann::new().attempt(), Finding::Wrong);
    eventually("the report", || counted(&policy, "report", "ok") == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.be(Manner::Says("{\"status\":0}"));
    assert_eq!(ask(&policy).await, Verdict::Accept);
}

#[tokio::test]
async fn nobody_waits_for_reports_and_few_wait_at_all() {
    let (server, policy) = pair(Manner::Slow(Duration::from_millis(20))).await;
    for _ in 0..REPORTS_WAITING + 44 {
        policy.report(&Ann::new().attempt(), Finding::Wrong);
    }
    assert_eq!(counted(&policy, "report", "dropped"), 44);
    // Nor for their connections.
    server.be(Manner::Says("{\"status\":0}"));
    assert_eq!(ask(&policy).await, Verdict::Accept);
    let done = || counted(&policy, "report", "ok") + counted(&policy, "report", "failed");
    eventually("all that was not dropped", || {
        done() == u64::try_from(REPORTS_WAITING).unwrap()
    })
    .await;
    assert!(server.most_at_once() <= REPORTS + 1);
    let reports = server.heard();
    let reports = reports
        .iter()
        .filter(|heard| heard.target.ends_with("report"));
    for report in reports {
        assert_eq!(report.body["success"], false);
        assert_eq!(report.body["policy_reject"], false);
    }
}

#[tokio::test]
async fn questions_wait_for_each_other_within_their_deadline() {
    let (server, policy) = pair(Manner::Slow(Duration::from_millis(100))).await;
    let asked: Vec<_> = (0..QUESTIONS * 2 + 1)
        .map(|_| {
            let policy = policy.clone();
            let (say, said) = tokio::sync::oneshot::channel();
            Tasks::new().background("question", async move {
                say.send(ask(&policy).await).unwrap();
            });
            said
        })
        .collect();
    for said in asked {
        said.await.unwrap();
    }
    assert_eq!(server.most_at_once(), QUESTIONS);
    assert!(server.connections() <= QUESTIONS);
}

#[tokio::test]
async fn what_is_not_wanted_is_not_asked() {
    let server = Server::start(Manner::Says("{\"status\":-1}"), None).await;
    let mut settings = settings(&format!("http://{}/x?y=z", server.address));
    settings.check_before = false;
    let policy = start(settings.clone());
    assert_eq!(ask(&policy).await, Verdict::Accept);
    policy.report(&Ann::new().attempt(), Finding::Right);
    eventually("the report", || counted(&policy, "report", "ok") == 1).await;
    (settings.check_before, settings.report_after) = (true, false);
    let policy = start(settings);
    policy.report(&Ann::new().attempt(), Finding::Right);
    assert_eq!(ask(&policy).await, Verdict::Reject(String::new()));
    let targets: Vec<_> = server
        .heard()
        .into_iter()
        .map(|heard| heard.target)
        .collect();
    assert_eq!(targets, ["/x?y=z&command=report", "/x?y=z&command=allow"]);
}

#[tokio::test]
async fn tls_is_verified() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let der = {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        STANDARD.encode(made.cert.der())
    };
    let pem = format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n");
    std::fs::write(&ca_file, pem).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(crate::net::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let manner = Manner::Says("{\"status\":-1,\"msg\":\"over TLS\"}");
    let server = Server::start(manner, Some(Arc::new(config))).await;
    let port = server.address.port();
    for (host, ca_file, is_trusted) in [
        ("localhost", Some(ca_file.clone()), true),
        ("127.0.0.1", Some(ca_file), false),
        ("localhost", None, false),
    ] {
        let policy = start(Settings {
            ca_file,
            timeout: PATIENCE,
            ..settings(&format!("https://{host}:{port}/"))
        });
        let verdict = ask(&policy).await;
        if is_trusted {
            assert_eq!(verdict, Verdict::Reject("over TLS".to_owned()));
        } else {
            assert!(
                matches!(&verdict, Verdict::Unknown(why) if why.contains("certificate")),
                "{verdict:?}"
            );
        }
    }
    assert_eq!(server.heard().len(), 1);
}
