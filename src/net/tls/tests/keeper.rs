//! Files that are replaced while somebody uses them.

use super::*;

/// What a look has found, in short.
fn looked(keeper: &mut Keeper) -> Vec<String> {
    let news = keeper.look().into_iter().map(|news| match news {
        News::Taken(of) => format!("taken {of:?}"),
        News::Mended(of) => format!("mended {of:?}"),
        News::Wrong(of, error) => format!("wrong {of:?}: {error}"),
        News::Clash(clash) => format!("clash {}", clash.name),
        News::Untimely(of, problem) => format!("untimely {of:?}: {problem}"),
    });
    news.collect()
}

async fn shown(lab: &Lab, tls: &Tls) -> CertificateDer<'static> {
    let client = Arc::new(lab.client(rustls::ALL_VERSIONS));
    let met = meet(tls, Oldest::Tls12, &client, "mail.example.org").await;
    met.unwrap().shown
}

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn a_new_pair_is_shown_and_a_bad_one_is_said_once() {
    let lab = Lab::new();
    let settings = lab.settings();
    let files = &settings.certificate;
    let (tls, mut keeper) = Tls::load(&settings).unwrap();
    let first = held(files);
    assert_eq!(looked(&mut keeper), NOTHING);
    assert_eq!(looked(&mut keeper), NOTHING);

    lab.pair("default", &["mail.example.org"]);
    assert_eq!(shown(&lab, &tls).await, first);
    assert_eq!(looked(&mut keeper), ["taken Certificate(0)"]);
    let second = held(files);
    assert_ne!(first, second);
    assert_eq!(shown(&lab, &tls).await, second);
    assert_eq!(looked(&mut keeper), NOTHING);

    // In two steps, with a look between them.
    let new = lab.pair("new", &["mail.example.org"]);
    fs::rename(&new.certificate, &files.certificate).unwrap();
    assert_eq!(looked(&mut keeper), NOTHING);
    assert_eq!(shown(&lab, &tls).await, second);
    fs::rename(&new.key, &files.key).unwrap();
    assert_eq!(looked(&mut keeper), ["taken Certificate(0)"]);
    let third = held(files);
    assert_eq!(shown(&lab, &tls).await, third);

    // For good, until somebody sees to it.
    let good = fs::read_to_string(&files.certificate).unwrap();
    let other = lab.pair("other", &["mail.example.org"]);
    fs::rename(&other.certificate, &files.certificate).unwrap();
    assert_eq!(looked(&mut keeper), NOTHING);
    assert_eq!(
        looked(&mut keeper),
        ["wrong Certificate(0): certificate and key do not fit"]
    );
    assert_eq!(looked(&mut keeper), NOTHING);
    assert_eq!(shown(&lab, &tls).await, third);
    fs::remove_file(&files.certificate).unwrap();
    assert_eq!(looked(&mut keeper), NOTHING);
    let [wrong] = &looked(&mut keeper)[..] else {
        panic!("it is gone, and nothing is said");
    };
    assert!(wrong.contains("cannot read a certificate"), "{wrong}");
    lab.write("default.pem", &good, 0o644);
    assert_eq!(looked(&mut keeper), ["mended Certificate(0)"]);
    assert_eq!(shown(&lab, &tls).await, third);
}

#[tokio::test]
async fn what_has_expired_replaces_nothing() {
    let lab = Lab::new();
    let settings = lab.settings();
    let (tls, mut keeper) = Tls::load(&settings).unwrap();
    let first = shown(&lab, &tls).await;
    let mut expired = params(&["mail.example.org"]);
    expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let files = lab.put("default", &expired);
    assert_eq!(looked(&mut keeper), NOTHING);
    let path = files.certificate.display();
    assert_eq!(
        looked(&mut keeper),
        [format!(
            "wrong Certificate(0): {path} cannot be used: it expired at 2002-01-01T00:00:00Z"
        )]
    );
    assert_eq!(shown(&lab, &tls).await, first);
    // A front that starts with it starts, and says so.
    let (tls, mut keeper) = Tls::load(&settings).unwrap();
    let said = "untimely Certificate(0): it expired at 2002-01-01T00:00:00Z";
    assert_eq!(looked(&mut keeper), [said]);
    assert_eq!(looked(&mut keeper), NOTHING);
    let files = lab.pair("default", &["mail.example.org"]);
    assert_eq!(looked(&mut keeper), ["taken Certificate(0)"]);
    assert_eq!(shown(&lab, &tls).await, held(&files));
    assert_eq!(looked(&mut keeper), NOTHING);
}

/// As when the front has given up the right to read them.
#[tokio::test]
async fn files_that_cannot_be_read_any_more_are_said_before_they_change() {
    let lab = Lab::new();
    let settings = lab.settings();
    let (_, mut keeper) = Tls::load(&settings).unwrap();
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&settings.certificate.key, mode).unwrap();
    assert_eq!(looked(&mut keeper), NOTHING);
    let [wrong] = &looked(&mut keeper)[..] else {
        panic!("nothing is said");
    };
    assert!(wrong.contains("has mode 0644"), "{wrong}");
}

#[tokio::test]
async fn one_that_is_wrong_does_not_keep_back_another() {
    let lab = Lab::new();
    let settings = Settings {
        others: vec![
            lab.pair("one", &["one.test"]),
            lab.pair("two", &["two.test"]),
        ],
        ..lab.settings()
    };
    let (_, mut keeper) = Tls::load(&settings).unwrap();
    lab.write("one.pem", "nothing", 0o644);
    lab.pair("two", &["two.test", "mail.example.org"]);
    assert_eq!(
        looked(&mut keeper),
        ["taken Certificate(2)", "clash mail.example.org"]
    );
    let [wrong] = &looked(&mut keeper)[..] else {
        panic!("nothing is said");
    };
    assert!(wrong.starts_with("wrong Certificate(1): "), "{wrong}");
}

#[tokio::test]
async fn keys_of_tickets_are_replaced_under_those_who_have_some() {
    const KEYS: [&str; 2] = [
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",
        "8AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",
    ];
    let lab = Lab::new();
    let [one, two] = KEYS;
    let settings = Settings {
        ticket_keys: Some(lab.write("tickets", one, 0o600)),
        ..lab.settings()
    };
    let (tls, mut keeper) = Tls::load(&settings).unwrap();
    let client = Arc::new(lab.client(rustls::ALL_VERSIONS));
    let meets = async || {
        let met = meet(&tls, Oldest::Tls12, &client, "mail.example.org").await;
        met.unwrap().kind
    };
    assert_eq!(meets().await, HandshakeKind::Full);
    lab.write("tickets", &format!("{two}\n{one}"), 0o600);
    assert_eq!(looked(&mut keeper), ["taken Tickets"]);
    assert_eq!(meets().await, HandshakeKind::Resumed);
    lab.write("tickets", "none", 0o600);
    assert_eq!(looked(&mut keeper), NOTHING);
    assert_eq!(looked(&mut keeper).len(), 1);
    assert_eq!(meets().await, HandshakeKind::Resumed);
    // A certificate that is replaced leaves sessions what they have.
    lab.pair("default", &["mail.example.org"]);
    assert_eq!(looked(&mut keeper), ["taken Certificate(0)"]);
    assert_eq!(meets().await, HandshakeKind::Resumed);
    lab.write("tickets", one, 0o600);
    assert_eq!(looked(&mut keeper), ["taken Tickets"]);
    assert_eq!(meets().await, HandshakeKind::Full);
}
