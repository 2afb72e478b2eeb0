//! Whose changes are followed, by a filter that is not simple, in a real slapd; and what administrators hear of
//! attributes that are not shown.

use super::*;
use crate::directory::live::Revoked;

fn ending(mut settings: Settings) -> Settings {
    settings.follow = FollowSettings {
        by: Follow::Sync,
        ..FollowSettings::default()
    };
    but(settings, |ldap| {
        // What slapd lets the reader see without ppolicy.
        ldap.schema.attributes.password_changed = "title".to_owned();
    })
}

/// Starts it, and waits until it hears of changes.
async fn started(settings: Settings, by: &str) -> (Directory, Metrics) {
    let (directory, metrics) = start_counted(settings);
    let gauge = metrics.directory_followed.with_label_values(&[by]);
    until(|| gauge.get() > 0).await;
    (directory, metrics)
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < patience, "it does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn session(directory: &Directory, login: &str) -> Watch {
    let (login, password) = (Login::parse(login).unwrap(), Secret::new("secret".into()));
    let admitted = directory.authenticate(&login, &password, VISIT).await;
    admitted.unwrap().watch
}

async fn end_of(watch: &mut Watch) -> Revoked {
    let ended = tokio::time::timeout(PATIENCE, watch.revoked()).await;
    ended.expect("the session goes on");
    watch.why().unwrap()
}

#[tokio::test]
async fn entries_that_are_found_by_a_dn_are_followed() {
    let slapd = Slapd::with_sync();
    slapd.replace("ann", "seeAlso", &dn("ann")).await;
    let settings = but(ending(settings(slapd.uri(), Verify::Bind)), |ldap| {
        let filter = format!("(&(objectClass=inetOrgPerson)(seeAlso={}))", dn("%n"));
        ldap.schema.filters = vec![filter.clone()];
        ldap.schema.delivery_filters = vec![filter];
    });
    let (directory, _) = started(settings, "sync").await;
    let mut ann = session(&directory, "ann").await;
    slapd.replace("ann", "mailHost", "node2").await;
    assert_eq!(end_of(&mut ann).await, Revoked::Moved);
}

#[tokio::test]
async fn entries_that_are_found_by_a_matching_rule_are_followed() {
    let slapd = Slapd::with_sync();
    let settings = but(ending(settings(slapd.uri(), Verify::Bind)), |ldap| {
        let filter = "(&(uid:caseIgnoreMatch:=%u)(!(mail:caseIgnoreIA5Match:=%u)))".to_owned();
        ldap.schema.filters = vec![filter.clone()];
        ldap.schema.delivery_filters = vec![filter];
    });
    let (directory, _) = started(settings, "sync").await;
    let mut ann = session(&directory, "ann").await;
    slapd.replace("ann", "mailHost", "node2").await;
    assert_eq!(end_of(&mut ann).await, Revoked::Moved);
}

/// What administrators hear of what is not shown.
async fn unshown(settings: Settings) -> Vec<String> {
    let metrics = Metrics::new().unwrap();
    let mut all = examine(settings, &metrics).await.unwrap();
    let one = all.pop().unwrap();
    assert_eq!(one.problems, [""; 0]);
    let no_account = format!("below {PEOPLE}: no account shows ");
    let notes = one.notes.iter();
    let notes = notes.filter_map(|note| note.strip_prefix(&no_account));
    notes.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn what_may_be_searched_by_and_not_read_is_not_shown() {
    let mut slapd = Slapd::with_sync();
    slapd.replace("ann", "title", "20261128230016Z").await;
    let bind = || ending(settings(slapd.uri(), Verify::Bind));
    let hash = || ending(settings(slapd.uri(), Verify::Hash));
    assert_eq!(unshown(bind()).await, [""; 0]);
    let settings = [bind(), hash()];
    slapd.restart_with(&format!(
        "access to attrs=title,entryUUID by dn.exact=\"{READER}\" search by * none"
    ));
    let [bind, hash] = settings;
    let gone = "entryUUID, so that nobody hears when an account is deleted";
    let password = "title, so that a changed password ends no session by it";
    assert_eq!(unshown(bind).await, [gone, password]);
    // The hash itself says when it changes.
    assert_eq!(unshown(hash).await, [gone]);
}
