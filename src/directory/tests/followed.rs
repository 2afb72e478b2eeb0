//! Whose changes are followed, by a filter that is not simple, in a real slapd and in a file; and what administrators hear of
//! attributes that are not shown.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use prometheus::IntCounter;

use super::*;
use crate::sessions::Ending;

/// What an accounts file says of one account besides its name.
const REST: &str = "gid = 1\npassword = \"{SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk\"\n";

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

async fn end_of(watch: &mut Watch) -> Ending {
    let ended = tokio::time::timeout(PATIENCE, watch.ended()).await;
    ended.expect("the session goes on");
    watch.why().unwrap()
}

/// Whether it goes on for now.
async fn goes_on(watch: &mut Watch) -> bool {
    let ended = tokio::time::timeout(Duration::ZERO, watch.ended()).await;
    ended.is_err()
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
    assert_eq!(end_of(&mut ann).await, Ending::Moved);
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
    assert_eq!(end_of(&mut ann).await, Ending::Moved);
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

/// An accounts file that is followed.
struct Followed {
    _folder: tempfile::TempDir,
    path: PathBuf,
    directory: Directory,
    /// How many entries were told of, by what was said.
    told: [IntCounter; 3],
}

impl Followed {
    async fn new(accounts: &[(&str, u32)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        write(&path, accounts);
        let settings = Settings {
            source: Source::File(FileSettings { path: path.clone() }),
            addresses: AddressSettings::default(),
            cache: CacheSettings::default(),
            follow: FollowSettings::default(),
        };
        let (directory, metrics) = started(settings, "file").await;
        let told = ["heard", "same", "gone"];
        let told = told.map(|word| metrics.directory_changes.with_label_values(&[word]));
        Self {
            _folder: folder,
            path,
            directory,
            told,
        }
    }

    /// Writes it in place, and waits until that was looked at.
    async fn write(&self, accounts: &[(&str, u32)]) {
        let told = || self.told.iter().map(IntCounter::get).sum::<u64>();
        let before = told();
        write(&self.path, accounts);
        until(|| told() > before).await;
    }
}

fn write(path: &Path, accounts: &[(&str, u32)]) {
    let one =
        |(name, uid): &(&str, u32)| format!("[[account]]\nname = \"{name}\"\nuid = {uid}\n{REST}");
    let text: String = accounts.iter().map(one).collect();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_accounts_file_that_was_cut_off_for_a_moment_ends_no_session() {
    let file = Followed::new(&[("ann", 1), ("bob", 2), ("cyd", 3)]).await;
    let mut ann = session(&file.directory, "ann").await;
    let mut bob = session(&file.directory, "bob").await;
    let mut cyd = session(&file.directory, "cyd").await;
    // What is there is told at once, what is not must stay away.
    file.write(&[("ann", 10)]).await;
    assert_eq!(end_of(&mut ann).await, Ending::Moved);
    file.write(&[("ann", 10), ("bob", 2)]).await;
    assert!(goes_on(&mut bob).await);
    assert_eq!(end_of(&mut cyd).await, Ending::Deleted);
    assert!(goes_on(&mut bob).await);
    assert_eq!(file.told[2].get(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_sits_down_after_a_change_that_was_not_seen_is_judged_by_it() {
    let file = Followed::new(&[("ann", 1), ("bob", 2), ("cyd", 3)]).await;
    let _ann = session(&file.directory, "ann").await;
    let inner = &file.directory.0;
    let Accounts::File(accounts) = &inner.accounts else {
        panic!("no file");
    };
    let mut read = Vec::new();
    for login in ["bob", "cyd"] {
        let login = Login::parse(login).unwrap();
        read.push(accounts.find(Question::Login(&login)).await.unwrap());
    }
    file.write(&[("ann", 1), ("bob", 20)]).await;
    // A password takes its time.
    let mut bob = inner.live.watch(&read[0], VISIT);
    let mut cyd = inner.live.watch(&read[1], VISIT);
    assert_eq!(end_of(&mut bob).await, Ending::Moved);
    assert_eq!(end_of(&mut cyd).await, Ending::Deleted);
}
