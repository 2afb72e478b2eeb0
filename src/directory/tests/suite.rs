//! One list of questions and answers for every source: the accounts file and a real slapd, which verifies passwords itself or
//! shows its hashes, with and without the cache in front. Both hold the same people; who asks must not notice which it is.
//!
//! What differs on purpose has a test of its own, at the end.

use std::{collections::HashSet, fmt::Write as _, fs, os::unix::fs::PermissionsExt as _};

use ldap3::Mod;

use super::{
    schemas::{MORE, SCHEMA},
    *,
};

/// {SSHA} of "secret".
const SECRET: &str = "{SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk";
/// {SHA} of "new".
const NEW: &str = "{SHA}wqawPxkN+ytKqR+K+NR3qbw0Adw=";
/// {CRYPT} of "crypted".
const CRYPTED: &str = "{CRYPT}$6$abcdefgh$rduPrailSmGoILgUrwVVTCqJLXAG9arLaqqXqs.IPJHeiU18IM8TV/p4Dsn6CyEZl3afRwCX0seqZB2sDhVMA0";

/// What both sources can say of somebody. Names and aliases are addresses, too.
#[derive(Clone)]
struct Person {
    name: &'static str,
    aliases: &'static [&'static str],
    addresses: &'static [&'static str],
    password: &'static str,
    home_node: Option<&'static str>,
    home: Option<&'static str>,
    quota: Option<u64>,
    status: Option<&'static str>,
    protocols: &'static [&'static str],
    networks: &'static [&'static str],
}

const PERSON: Person = Person {
    name: "",
    aliases: &[],
    addresses: &[],
    password: SECRET,
    home_node: Some("node1"),
    home: None,
    quota: None,
    status: None,
    protocols: &[],
    networks: &[],
};

/// The uid of all of them, and the gid.
const IDS: (u32, u32) = (20001, 20002);

fn people() -> Vec<Person> {
    let of_status = |name, status| Person {
        name,
        status: Some(status),
        ..PERSON
    };
    vec![
        Person {
            name: "ann",
            aliases: &["ann@example.org", "chief@example.org"],
            addresses: &["ann.smith@example.org", "own+box@example.org"],
            home: Some("homes/ann"),
            quota: Some(5_000_000),
            status: Some("active"),
            ..PERSON
        },
        Person {
            name: "bob",
            password: CRYPTED,
            home_node: None,
            quota: Some(0),
            ..PERSON
        },
        of_status("off", "disabled"),
        of_status("noaccess", "NoAccess"),
        of_status("later", "maintenance"),
        Person {
            name: "imap",
            protocols: &["imap"],
            ..PERSON
        },
        Person {
            name: "office",
            networks: &["192.0.2.0/24", "2001:db8::/32"],
            ..PERSON
        },
        Person {
            name: "Zo\u{eb} O'Neil",
            ..PERSON
        },
        Person {
            name: "whole@example.org",
            home_node: Some("node2"),
            ..PERSON
        },
    ]
}

impl Person {
    /// A table of the accounts file.
    fn table(&self) -> String {
        // In a directory the filters say whether what one logs in by is an address, too; in the file it must be named as both.
        let addresses = [self.aliases, self.addresses].concat();
        let mut text = format!(
            "[[account]]\nname = {:?}\naliases = {:?}\naddresses = {:?}\npassword = {:?}\nuid = {}\ngid = {}\n",
            self.name, self.aliases, addresses, self.password, IDS.0, IDS.1
        );
        for (key, value) in [
            ("home_node", self.home_node),
            ("home", self.home),
            ("status", self.status),
        ] {
            if let Some(value) = value {
                writeln!(text, "{key} = {value:?}").unwrap();
            }
        }
        if let Some(quota) = self.quota {
            writeln!(text, "quota = {quota}").unwrap();
        }
        for (key, values) in [("protocols", self.protocols), ("networks", self.networks)] {
            if !values.is_empty() {
                writeln!(text, "{key} = {values:?}").unwrap();
            }
        }
        text + "\n"
    }

    /// The attributes of an entry that may change; those without values are not there.
    fn attributes(&self) -> Vec<(String, HashSet<String>)> {
        let some = |value: Option<&str>| value.map(ToOwned::to_owned).into_iter().collect();
        let all = |values: &[&str]| values.iter().map(ToString::to_string).collect();
        [
            ("uid", some(Some(self.name))),
            ("mail", all(self.aliases)),
            ("mailAlternateAddress", all(self.addresses)),
            ("userPassword", some(Some(self.password))),
            ("qmailUID", some(Some(&IDS.0.to_string()))),
            ("qmailGID", some(Some(&IDS.1.to_string()))),
            ("mailHost", some(self.home_node)),
            ("homeDirectory", some(self.home)),
            (
                "mailQuotaSize",
                some(self.quota.map(|q| q.to_string()).as_deref()),
            ),
            ("accountStatus", some(self.status)),
            ("businessCategory", all(self.protocols)),
            ("departmentNumber", all(self.networks)),
        ]
        .map(|(name, values)| (name.to_owned(), values))
        .into()
    }

    fn dn(&self) -> String {
        format!("cn={},{MORE}", self.name)
    }
}

/// A source that holds people, and can be changed.
enum Prepared {
    File(tempfile::TempDir),
    Ldap(Box<Slapd>),
}

impl Prepared {
    fn file() -> Self {
        let prepared = Self::File(tempfile::tempdir().unwrap());
        prepared.write(&people());
        prepared
    }

    async fn ldap() -> Self {
        let place = format!("dn: {MORE}\nobjectClass: organizationalUnit\n\n");
        let prepared = Self::Ldap(Box::new(Slapd::with_schema(SCHEMA, &place)));
        for person in people() {
            prepared.add(&person).await;
        }
        prepared
    }

    /// Writes the accounts file anew, in one go.
    fn write(&self, people: &[Person]) {
        let Self::File(folder) = self else {
            panic!("not a file");
        };
        let (path, next) = (
            folder.path().join("accounts.toml"),
            folder.path().join("next"),
        );
        fs::write(&next, people.iter().map(Person::table).collect::<String>()).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, path).unwrap();
    }

    async fn admin(&self) -> ldap3::Ldap {
        match self {
            Self::Ldap(slapd) => slapd.admin().await,
            Self::File(_) => panic!("not LDAP"),
        }
    }

    async fn add(&self, person: &Person) {
        let value = |text: &str| HashSet::from([text.to_owned()]);
        let classes = ["inetOrgPerson", "qmailUser"].map(ToOwned::to_owned).into();
        let mut attributes = vec![
            ("objectClass".to_owned(), classes),
            ("sn".to_owned(), value("x")),
        ];
        attributes.extend(person.attributes());
        attributes.retain(|(_, values)| !values.is_empty());
        let added = self.admin().await.add(&person.dn(), attributes).await;
        added.unwrap().success().unwrap();
    }

    /// From these people to those, however this source is changed.
    async fn change(&self, from: &[Person], to: &[Person]) {
        if matches!(self, Self::File(_)) {
            self.write(to);
            // The file is looked at once a second.
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
            return;
        }
        let names = |people: &[Person]| people.iter().map(|p| p.name).collect::<HashSet<_>>();
        let (before, after) = (names(from), names(to));
        for gone in from.iter().filter(|person| !after.contains(person.name)) {
            let deleted = self.admin().await.delete(&gone.dn()).await;
            deleted.unwrap().success().unwrap();
        }
        for person in to {
            if !before.contains(person.name) {
                self.add(person).await;
                continue;
            }
            let changes = person.attributes().into_iter();
            let changes = changes.map(|(name, values)| Mod::Replace(name, values));
            let mut admin = self.admin().await;
            let modified = admin.modify(&person.dn(), changes.collect()).await;
            modified.unwrap().success().unwrap();
        }
    }

    fn settings(&self, verify: Verify) -> Settings {
        let settings = match self {
            Self::File(folder) => Settings {
                source: Source::File(FileSettings {
                    path: folder.path().join("accounts.toml"),
                }),
                addresses: AddressSettings::default(),
                cache: CacheSettings::default(),
                follow: UNFOLLOWED,
            },
            Self::Ldap(slapd) => but(settings(slapd.uri(), verify), |ldap| {
                ldap.schema.bases = vec![MORE.to_owned()];
                ldap.schema.filters = vec![Preset::QmailLdap.filter().to_owned()];
                ldap.schema.delivery_filters = vec![
                    Preset::QmailLdap.delivery_filter().to_owned(),
                    // Names are addresses at the one domain.
                    "(|(uid=%n)(uid=%u))".to_owned(),
                ];
                ldap.schema.attributes = Attributes {
                    protocols: Some("businessCategory".to_owned()),
                    networks: Some("departmentNumber".to_owned()),
                    ..Preset::QmailLdap.attributes()
                };
            }),
        };
        Settings {
            addresses: AddressSettings {
                domains: vec!["example.org".to_owned()],
                domain_aliases: [("old.example".to_owned(), "example.org".to_owned())].into(),
                default_domain: Some("example.org".to_owned()),
                ..AddressSettings::default()
            },
            ..settings
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Login and password.
    LogIn(&'static str, &'static str),
    /// Login, by this protocol, from there, with the password "secret".
    Visit(&'static str, Protocol, &'static str),
    /// An authorization identity.
    Find(&'static str),
    /// An address.
    Mail(&'static str),
}
use Ask::{Find, LogIn, Mail, Visit as From};
use Protocol::{Imap, Pop3};

impl Ask {
    /// The answer in words that no source has of its own.
    async fn answer(self, directory: &Directory) -> String {
        let log_in = async |login, password: &str, protocol, client: &str| {
            let password = Secret::new(password.as_bytes().to_vec());
            let visit = Visit {
                protocol,
                client: client.parse().unwrap(),
            };
            let login = Login::parse(login).unwrap();
            let admitted = directory.authenticate(&login, &password, visit).await;
            admitted.map(|admitted| admitted.account)
        };
        let answer = match self {
            LogIn(login, password) => log_in(login, password, Imap, "::1").await,
            From(login, protocol, client) => log_in(login, "secret", protocol, client).await,
            Find(login) => directory.find(&Login::parse(login).unwrap()).await,
            Mail(address) => {
                let address = Address::parse(address).unwrap();
                directory.find_recipient(&address).await
            }
        };
        match (self, answer) {
            (Find(_), Ok(found)) => {
                let (quota, node) = (found.quota.unwrap_or(0), found.home_node.as_deref());
                let allows = |visit| found.access.check(visit).is_ok();
                assert_eq!((found.uid, found.gid), IDS);
                let node = node.unwrap_or("-");
                let visited = if allows(VISIT) { "" } else { " not from here" };
                format!(
                    "{} at {node} in {}, {quota}, {:?} {:?}{visited}",
                    found.name, found.home, found.login, found.delivery
                )
            }
            (Mail(_), Ok(found)) => format!("{} {:?}", found.name, found.delivery),
            (_, Ok(found)) => format!("ok {}", found.name),
            (_, Err(LookupError::Wrong(wrong))) => wrong.to_string(),
            // An entry is called otherwise in each.
            (_, Err(LookupError::Entry(text))) => text.split_once(": ").unwrap().1.to_owned(),
            (_, Err(LookupError::NotNow(_))) => NOT_NOW.to_owned(),
            (_, Err(error)) => error.to_string(),
        }
    }
}

const DISABLED: &str = "account may not log in";
const NOT_NOW: &str = "not now";
const PROTOCOL: &str = "account may not use this protocol";
const NETWORK: &str = "account may not log in from this network";
const WRONG: &str = "wrong password";
const UNKNOWN: &str = "unknown user";

/// Who logs in.
const LOGINS: &[(Ask, &str)] = &[
    (LogIn("ann", "secret"), "ok ann"),
    (LogIn("ann@example.org", "secret"), "ok ann"),
    (LogIn("chief@example.org", "secret"), "ok ann"),
    (LogIn("ann", "Secret"), WRONG),
    (LogIn("ann", "secret "), WRONG),
    (LogIn("ann", ""), WRONG),
    (LogIn("ann", SECRET), WRONG),
    (LogIn("bob", "crypted"), "ok bob"),
    (LogIn("bob", "secret"), WRONG),
    (LogIn("Zo\u{eb} O'Neil", "secret"), "ok Zo\u{eb} O'Neil"),
    (LogIn("whole@example.org", "secret"), "ok whole@example.org"),
    // No login has a detail, another domain or the default one, and an address alone is none.
    (LogIn("ann+x", "secret"), UNKNOWN),
    (LogIn("ann+x@example.org", "secret"), UNKNOWN),
    (LogIn("ann@old.example", "secret"), UNKNOWN),
    (LogIn("bob@example.org", "crypted"), UNKNOWN),
    (LogIn("whole", "secret"), UNKNOWN),
    (LogIn("ann.smith@example.org", "secret"), UNKNOWN),
    (LogIn("nobody", "secret"), UNKNOWN),
    (LogIn("nobody", ""), WRONG),
    (LogIn("off", "secret"), DISABLED),
    // What it is refused for is said to the log alone, and needs no password.
    (LogIn("off", "wrong"), DISABLED),
    (LogIn("off", ""), WRONG),
    (LogIn("noaccess", "secret"), DISABLED),
    (LogIn("later", "secret"), NOT_NOW),
    // Whoever has not got its password does not hear that there is an account.
    (LogIn("later", "wrong"), WRONG),
    (LogIn("later", ""), WRONG),
    (From("imap", Imap, "192.0.2.1"), "ok imap"),
    (From("imap", Pop3, "192.0.2.1"), PROTOCOL),
    (From("ann", Pop3, "192.0.2.1"), "ok ann"),
    (From("office", Pop3, "192.0.2.1"), "ok office"),
    (From("office", Imap, "::ffff:192.0.2.1"), "ok office"),
    (From("office", Imap, "2001:db8::1"), "ok office"),
    (From("office", Imap, "198.51.100.1"), NETWORK),
];

/// Who that is, without a password.
const ACCOUNTS: &[(Ask, &str)] = &[
    (
        Find("ann"),
        "ann at node1 in homes/ann, 5000000, Allowed Allowed",
    ),
    (
        Find("chief@example.org"),
        "ann at node1 in homes/ann, 5000000, Allowed Allowed",
    ),
    // A quota of 0 is none, and the home is the name.
    (Find("bob"), "bob at - in bob, 0, Allowed Allowed"),
    (Find("off"), "off at node1 in off, 0, Refused Refused"),
    (
        Find("noaccess"),
        "noaccess at node1 in noaccess, 0, Refused Allowed",
    ),
    (
        Find("later"),
        "later at node1 in later, 0, TryLater TryLater",
    ),
    (Find("imap"), "imap at node1 in imap, 0, Allowed Allowed"),
    (
        Find("office"),
        "office at node1 in office, 0, Allowed Allowed not from here",
    ),
    (
        Find("whole@example.org"),
        "whole@example.org at node2 in whole@example.org, 0, Allowed Allowed",
    ),
    (Find("nobody"), UNKNOWN),
    (Find("ann+x"), UNKNOWN),
];

/// Whose mail that is.
const ADDRESSES: &[(Ask, &str)] = &[
    (Mail("ann@example.org"), "ann Allowed"),
    (Mail("ANN@Example.ORG"), "ann Allowed"),
    (Mail("ann"), "ann Allowed"),
    (Mail("ann@old.example"), "ann Allowed"),
    (Mail("ann+x@example.org"), "ann Allowed"),
    (Mail("ann+x+y@old.example"), "ann Allowed"),
    (Mail("ann+x"), "ann Allowed"),
    (Mail("ann@elsewhere.example"), UNKNOWN),
    (Mail("ann@[192.0.2.1]"), UNKNOWN),
    (Mail("\"ann\"@example.org"), "ann Allowed"),
    (Mail("\"ann@example.org\""), UNKNOWN),
    (Mail("chief"), "ann Allowed"),
    (Mail("Ann.Smith@example.org"), "ann Allowed"),
    (Mail("own+box@example.org"), "ann Allowed"),
    (Mail("own@example.org"), UNKNOWN),
    (Mail("own+other@example.org"), UNKNOWN),
    (Mail("+ann@example.org"), UNKNOWN),
    (Mail("bob"), "bob Allowed"),
    (
        Mail("\"zo\u{eb} o'neil\"@example.org"),
        "Zo\u{eb} O'Neil Allowed",
    ),
    (Mail("whole"), "whole@example.org Allowed"),
    (Mail("whole+x@old.example"), "whole@example.org Allowed"),
    (Mail("off"), "off Refused"),
    (Mail("noaccess@example.org"), "noaccess Allowed"),
    (Mail("later+x"), "later TryLater"),
    (Mail("nobody"), UNKNOWN),
    (Mail("*@example.org"), UNKNOWN),
];

/// The people after a change, of each kind one.
fn changed() -> Vec<Person> {
    let mut people = people();
    let named = |name| people.iter().position(|p| p.name == name).unwrap();
    let [ann, bob, off, later, office] = ["ann", "bob", "off", "later", "office"].map(named);
    people[ann].password = NEW;
    people[ann].home = Some("homes/ann2");
    people[ann].home_node = Some("node3");
    people[ann].aliases = &["ann@example.org"];
    people[bob].status = Some("disabled");
    people[off].status = None;
    people[office].networks = &["198.51.100.0/24"];
    people.remove(later);
    people.push(Person {
        name: "newcomer",
        addresses: &["chief@example.org"],
        ..PERSON
    });
    people
}

const AFTER: &[(Ask, &str)] = &[
    (LogIn("ann", "new"), "ok ann"),
    (LogIn("ann", "secret"), WRONG),
    (
        Find("ann"),
        "ann at node3 in homes/ann2, 5000000, Allowed Allowed",
    ),
    (LogIn("chief@example.org", "secret"), UNKNOWN),
    (Mail("chief@example.org"), "newcomer Allowed"),
    (LogIn("newcomer", "secret"), "ok newcomer"),
    (LogIn("bob", "crypted"), DISABLED),
    (Mail("bob"), "bob Refused"),
    (LogIn("off", "secret"), "ok off"),
    (Mail("off"), "off Allowed"),
    (LogIn("later", "secret"), UNKNOWN),
    (Find("later"), UNKNOWN),
    (Mail("later"), UNKNOWN),
    (From("office", Imap, "192.0.2.1"), NETWORK),
    (From("office", Imap, "198.51.100.1"), "ok office"),
];

async fn check(directory: &Directory, cases: &[(Ask, &str)], source: &str) {
    for (ask, expected) in cases {
        let answer = ask.answer(directory).await;
        assert_eq!(answer, *expected, "{ask:?} of {source}");
    }
}

/// The whole suite. What is kept in the cache is a matter of time, and so tried elsewhere.
async fn run(prepared: &Prepared, verify: Verify, source: &str) {
    let settings = prepared.settings(verify);
    let all = [LOGINS, ACCOUNTS, ADDRESSES];
    let kept = start(cached(settings.clone()));
    for directory in [&kept, &kept.for_worker(2)] {
        for cases in all {
            check(directory, cases, source).await;
        }
    }
    let fresh = CacheSettings {
        entries: 0,
        ..CacheSettings::default()
    };
    let directory = start(Settings {
        cache: fresh,
        ..settings
    });
    assert!(directory.is_ready().await);
    let (before, after) = (people(), changed());
    for cases in all {
        check(&directory, cases, source).await;
    }
    prepared.change(&before, &after).await;
    check(&directory, AFTER, source).await;
    // Enabled and disabled, added and removed again.
    prepared.change(&after, &before).await;
    for cases in all {
        check(&directory, cases, source).await;
    }
}

#[tokio::test]
async fn the_accounts_file_answers_so() {
    run(&Prepared::file(), Verify::Hash, "the file").await;
}

#[tokio::test]
async fn ldap_answers_so() {
    let prepared = Prepared::ldap().await;
    run(&prepared, Verify::Bind, "slapd that verifies").await;
    run(&prepared, Verify::Hash, "slapd that shows hashes").await;
}

/// Each because of what the source is: a directory compares as its schema says, has entries of others, and may be read while it
/// is changed; a file is ours alone and taken whole.
#[tokio::test]
async fn what_differs_differs_on_purpose() {
    let (file, ldap) = (Prepared::file(), Prepared::ldap().await);
    let in_file = start(file.settings(Verify::Hash));
    let in_ldap = start(ldap.settings(Verify::Bind));
    for (ask, of_file, of_ldap) in [
        // Names are octets here, and without regard to case and blanks around there.
        (LogIn("ANN", "secret"), UNKNOWN, "ok ann"),
        (LogIn(" ann ", "secret"), UNKNOWN, "ok ann"),
        (LogIn("Chief@Example.org", "secret"), UNKNOWN, "ok ann"),
        (
            LogIn("Zoe\u{308} O'Neil", "secret"),
            UNKNOWN,
            "ok Zo\u{eb} O'Neil",
        ),
    ] {
        assert_eq!(ask.answer(&in_file).await, of_file, "{ask:?}");
        assert_eq!(ask.answer(&in_ldap).await, of_ldap, "{ask:?}");
    }
    // A status that nobody knows: the file is not taken, and of a directory one account is not served.
    let mut odd = people();
    odd[0].status = Some("asleep");
    odd[1].password = SECRET;
    ldap.change(&people(), &odd).await;
    file.change(&people(), &odd).await;
    let asked = [LogIn("ann", "secret"), LogIn("bob", "secret")];
    for (ask, of_file, of_ldap) in [(asked[0], "ok ann", NOT_NOW), (asked[1], WRONG, "ok bob")] {
        assert_eq!(ask.answer(&in_file).await, of_file, "{ask:?}");
        assert_eq!(ask.answer(&in_ldap).await, of_ldap, "{ask:?}");
    }
    // Two of one name: the file is not taken, and in a directory nobody can say who that is.
    let mut twins = people();
    twins[1].aliases = &["chief@example.org"];
    ldap.change(&odd, &twins).await;
    file.change(&odd, &twins).await;
    let twin = LogIn("chief@example.org", "secret");
    assert_eq!(twin.answer(&in_file).await, "ok ann");
    assert_eq!(
        twin.answer(&in_ldap).await,
        LookupError::Ambiguous.to_string()
    );
    // Nobody at all: a file that is just being written, or a directory without entries.
    ldap.change(&twins, &[]).await;
    file.change(&twins, &[]).await;
    assert_eq!(asked[0].answer(&in_file).await, "ok ann");
    assert_eq!(asked[0].answer(&in_ldap).await, UNKNOWN);
    // uid and gid have a default there.
    ldap.add(&people()[0]).await;
    let none = |name| Mod::Replace(name, HashSet::<&str>::new());
    let changes = vec![none("qmailUID"), none("qmailGID")];
    let mut admin = ldap.admin().await;
    let modified = admin.modify(&people()[0].dn(), changes).await;
    modified.unwrap().success().unwrap();
    let ann = in_ldap.find(&Login::parse("ann").unwrap()).await.unwrap();
    assert_eq!((ann.uid, ann.gid), (5000, 5001));
}
