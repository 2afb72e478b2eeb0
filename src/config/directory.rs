//! `[directory]`: where accounts are, and how entries are read.
//!
//! Tables of the kind that is not chosen are refused: whoever changes `kind` and forgets half of it should hear so.
//!
//! What can be known without asking the LDAP servers is checked: their addresses, the filters (tried by the parser that
//! will send them), the pair of service account and password, and that no other name of a domain leads nowhere.
//! Passwords that would cross a wire in clear are allowed, and said at start-up.

use std::{collections::BTreeMap, time::Duration};

use super::{
    DAY, HOUR, SHORTEST,
    files::{self, System},
    form::{self, Form, LAST_ID},
    section::Section,
};
use crate::{
    directory::{
        AddressSettings, Attributes, CacheSettings, Follow, FollowSettings, LdapSettings, LdapUri,
        Preset, SchemaSettings, ServiceAccount, Sessions, Settings, Source, Verify,
    },
    net::Address,
    proto::lmtp,
};

const TIMEOUT: Duration = Duration::from_secs(5);
const HEDGE_AFTER: Duration = Duration::from_millis(500);
const SHORTEST_HEDGE: Duration = Duration::from_millis(10);
const BIND_CONNECTIONS: usize = 8;
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Bases, and filters: all of them are tried for a name that nobody has.
const MAX_SEARCHES: usize = 8;
const DEFAULT_HOME: &str = "%u";
/// A question asks each of them at most once.
const MAX_SERVERS: usize = 8;

/// Octets in a unit of a quota that is a mere number.
const QUOTA_UNITS: &[(&str, u64)] = &[("octet", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)];

const VERIFY: &[(&str, Verify)] = &[("bind", Verify::Bind), ("hash", Verify::Hash)];

const FOLLOW: &[(&str, Follow)] = &[
    ("auto", Follow::Auto),
    ("sync", Follow::Sync),
    ("poll", Follow::Poll),
    ("off", Follow::Off),
];

const UNFOLLOWED: &str = "not used with by = \"off\"";

/// Whether they end.
const SESSIONS: &[(&str, bool)] = &[("end", true), ("leave", false)];

/// RFC 4422, appendix A.
const SASL_WORDS: &[(&str, ())] = &[("external", ())];

#[derive(Clone, Copy)]
enum Kind {
    File,
    Ldap,
}

const KINDS: &[(&str, Kind)] = &[("ldap", Kind::Ldap), ("file", Kind::File)];

/// Reads the section.
pub(super) fn read(section: &mut Section<'_>, system: &System) -> Option<Settings> {
    let kind = section.required("kind", &form::word(KINDS));
    let id = form::integer(1..=LAST_ID);
    let default_uid = section.optional("default_uid", &id);
    let default_gid = section.optional("default_gid", &id);
    let default_home = section.optional("default_home", &home());
    let addresses = addresses(section);
    let cache = cache(&mut section.table("cache"));
    let follow = follow(&mut section.table("follow"), kind);
    let mut ldap_table = section.table("ldap");
    let mut file_table = section.table("file");
    let source = match kind {
        Some(Kind::Ldap) => {
            file_table.unused("not used with kind = \"ldap\"");
            let mut settings = ldap(&mut ldap_table, system)?;
            settings.schema.default_uid = default_uid;
            settings.schema.default_gid = default_gid;
            if let Some(home) = default_home {
                settings.schema.default_home = home;
            }
            Source::Ldap(Box::new(settings))
        }
        Some(Kind::File) => {
            ldap_table.unused("not used with kind = \"file\"");
            for name in ["default_uid", "default_gid", "default_home"] {
                if section.has(name) {
                    section.problem(name, "not used with kind = \"file\"");
                }
            }
            Source::File(files::accounts(&mut file_table, "path", &addresses)?)
        }
        None => {
            ldap_table.leave();
            file_table.leave();
            return None;
        }
    };
    Some(Settings {
        source,
        addresses,
        cache,
        follow,
    })
}

/// What of an address is looked up.
fn addresses(section: &mut Section<'_>) -> AddressSettings {
    let default = AddressSettings::default();
    let delimiter = form::parsed("characters that begin a detail, as \"+\" or \"\"", |text| {
        let valid = !text.contains(|c: char| c == '@' || c.is_control());
        valid.then(|| text.to_owned())
    });
    let recipient_delimiter = section.or(
        "recipient_delimiter",
        &delimiter,
        default.recipient_delimiter,
    );
    let domains = section.list("domains", &domain());
    let default_domain = section.optional("default_domain", &domain());
    // Beside a list that is wrong itself, nobody can say which domains are ours.
    let is_known = domains.is_some() || !section.has("domains");
    let mut addresses = AddressSettings {
        recipient_delimiter,
        domains: domains.unwrap_or_default(),
        domain_aliases: BTreeMap::new(),
        default_domain,
    };
    let aliases = domain_aliases(section);
    if is_known {
        for (alias, domain) in &aliases {
            if let Some(problem) = wrong_alias(&addresses, alias, domain, &aliases) {
                section.problem(&format!("{DOMAIN_ALIASES}.{alias}"), problem);
            }
        }
    }
    addresses.domain_aliases = aliases;
    addresses
}

const DOMAIN_ALIASES: &str = "domain_aliases";

/// What is wrong with another name of a domain beside all the rest.
fn wrong_alias(
    addresses: &AddressSettings,
    alias: &String,
    domain: &String,
    aliases: &BTreeMap<String, String>,
) -> Option<String> {
    let is_named = |domain| {
        addresses.domains.contains(domain) || addresses.default_domain.as_ref() == Some(domain)
    };
    if alias == domain || is_named(alias) {
        return Some("is a domain of ours itself".to_owned());
    }
    if is_named(domain) {
        return None;
    }
    if aliases.contains_key(domain) {
        return Some(format!("{domain:?} is another name itself"));
    }
    let is_known = addresses.domains.is_empty();
    (!is_known).then(|| format!("{domain:?} is not one of domains"))
}

/// Other names of domains; what is no domain is reported and left out.
fn domain_aliases(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let expected =
        "a table of other names and their domains, as { \"example.net\" = \"example.org\" }";
    let form = Form::new(expected, |value| value.as_table().cloned());
    let domain = domain();
    let mut aliases = BTreeMap::new();
    for (alias, value) in section.optional(DOMAIN_ALIASES, &form).unwrap_or_default() {
        let shown: String = alias.escape_debug().take(64).collect();
        let key = format!("{DOMAIN_ALIASES}.{shown}");
        match (
            domain.read(&toml::Value::String(alias)),
            domain.read(&value),
        ) {
            (Ok(alias), Ok(domain)) => {
                aliases.insert(alias, domain);
            }
            (Err(problem), _) | (_, Err(problem)) => section.problem(&key, problem),
        }
    }
    aliases
}

/// A domain, or an address literal, in small letters.
fn domain() -> Form<String> {
    form::parsed("a domain, as \"example.org\"", |text| {
        let address = lmtp::Address::parse(&format!("x@{text}")).ok()?;
        Some(address.domain()?.to_lowercase())
    })
}

fn ldap(table: &mut Section<'_>, system: &System) -> Option<LdapSettings> {
    let servers = servers(table);
    let start_tls = table.or("start_tls", &form::boolean(), false);
    let is_encrypted = |uri: &LdapUri| uri.tls || start_tls;
    let uris = servers.iter().flatten();
    let ca_file = files::authorities(table, system, uris.clone().any(is_encrypted));
    let can_start = |uri: &LdapUri| !uri.tls && matches!(uri.address, Address::Tcp { .. });
    if start_tls && servers.is_some() && !uris.clone().any(can_start) {
        table.problem(
            "start_tls",
            "possible under ldap:// alone (got true; expected false, or a uri with ldap://)",
        );
    }
    for uri in uris {
        if !is_encrypted(uri) && !uri.address.is_local() {
            table.report().warn(format!(
                "{}: passwords travel to {uri} in clear: set start_tls, or use ldaps://",
                table.key("uri"),
            ));
        }
    }
    let client = files::client_certificate(table);
    let service = service_account(table);
    let schema = schema(table);
    let timeout = table.or("timeout", &form::duration(SHORTEST..=HOUR), TIMEOUT);
    let hedge_after = table.or(
        "hedge_after",
        &form::duration(SHORTEST_HEDGE..=HOUR),
        HEDGE_AFTER,
    );
    let bind_connections = table.or(
        "bind_connections",
        &form::integer(1..=1000),
        BIND_CONNECTIONS,
    );
    let settings = LdapSettings {
        servers: servers?,
        start_tls,
        ca_file,
        client,
        service,
        schema: schema?,
        timeout,
        hedge_after,
        bind_connections,
    };
    contradictions(table, &settings);
    Some(settings)
}

/// Settings that are right by themselves and make no sense together.
fn contradictions(table: &mut Section<'_>, settings: &LdapSettings) {
    let has_tls = |uri: &LdapUri| {
        uri.tls || (settings.start_tls && matches!(uri.address, Address::Tcp { .. }))
    };
    let (servers, has_client) = (&settings.servers, settings.client.is_some());
    if servers.len() > 1 && settings.hedge_after >= settings.timeout {
        table.problem(
            "hedge_after",
            "is not less than timeout: a silent server would be waited for alone until the end",
        );
    }
    if has_client && !servers.iter().any(has_tls) {
        table.problem("client_certificate", "not used without TLS");
    }
    let says_who =
        |uri: &LdapUri| matches!(uri.address, Address::Unix(_)) || (has_client && has_tls(uri));
    if matches!(settings.service, ServiceAccount::External) && !servers.iter().all(says_who) {
        table.problem(
            "bind_sasl",
            "nothing says who we are: each uri must be ldapi://, or have TLS with client_certificate",
        );
    }
}

/// One server, or a list of them; all are of the form.
fn servers(table: &mut Section<'_>) -> Option<Vec<LdapUri>> {
    let form = form::one_or_more(form::parsed(LdapUri::FORM, LdapUri::parse), MAX_SERVERS);
    let uris = table.required("uri", &form)?;
    let mut seen = Vec::new();
    for uri in &uris {
        if seen.contains(&uri) {
            table.problem("uri", format!("{uri} is there twice"));
        }
        seen.push(uri);
    }
    Some(uris)
}

fn schema(table: &mut Section<'_>) -> Option<SchemaSettings> {
    let preset = table.or("schema", &form::word(Preset::ALL), Preset::InetLocal);
    let base = form::text("the DN that searches start from");
    let bases = table.required("base", &form::one_or_more(base, MAX_SEARCHES));
    let filters = form::one_or_more(filter(), MAX_SEARCHES);
    let delivery = vec![preset.delivery_filter().to_owned()];
    let delivery_filters = table.or("delivery_filter", &filters, delivery);
    let filters = table.or("filter", &filters, vec![preset.filter().to_owned()]);
    let verify = table.or("verify", &form::word(VERIFY), Verify::Bind);
    let unit = form::word(QUOTA_UNITS);
    let quota_unit = table.or("quota_unit", &unit, preset.quota_unit());
    let attributes = attributes(&mut table.table("attributes"), preset);
    Some(SchemaSettings {
        bases: bases?,
        filters,
        delivery_filters,
        verify,
        attributes,
        quota_unit,
        default_uid: None,
        default_gid: None,
        default_home: DEFAULT_HOME.to_owned(),
    })
}

/// Who searches: a name and a password, or whom the connection names.
fn service_account(table: &mut Section<'_>) -> ServiceAccount {
    const DN: &str = "bind_dn";
    const FILE: &str = "bind_password_file";
    const SASL: &str = "bind_sasl";
    let form = form::text("the DN of a service account");
    if table.optional(SASL, &form::word(SASL_WORDS)).is_some() {
        for name in [DN, FILE] {
            if table.has(name) {
                table.problem(name, "not used with bind_sasl = \"external\"");
            }
        }
        table.pass_over(&[DN, FILE]);
        return ServiceAccount::External;
    }
    if !table.has(DN) && !table.has(FILE) {
        table.pass_over(&[DN, FILE]);
        return ServiceAccount::Anonymous;
    }
    let password = files::password(table, FILE);
    if let Some(password) = &password
        && std::str::from_utf8(password.expose()).is_err()
    {
        table.problem(FILE, "not UTF-8, which passwords in LDAP are");
    }
    match (table.required(DN, &form), password) {
        (Some(dn), Some(password)) => ServiceAccount::Simple { dn, password },
        // What is missing was reported.
        _ => ServiceAccount::Anonymous,
    }
}

fn attributes(table: &mut Section<'_>, preset: Preset) -> Attributes {
    let default = preset.attributes();
    let form = form::parsed("the name of an attribute", |text| {
        let mut chars = text.chars();
        let first = chars.next()?.is_ascii_alphanumeric();
        let rest = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';' | '_'));
        (first && rest).then(|| text.to_owned())
    });
    Attributes {
        name: table.or("name", &form, default.name),
        home_node: table.or("home_node", &form, default.home_node),
        uid: table.or("uid", &form, default.uid),
        gid: table.or("gid", &form, default.gid),
        home: table.or("home", &form, default.home),
        quota: table.or("quota", &form, default.quota),
        status: table.or("status", &form, default.status),
        password: table.or("password", &form, default.password),
        password_changed: table.or("password_changed", &form, default.password_changed),
        protocols: table.optional("protocols", &form).or(default.protocols),
        networks: table.optional("networks", &form).or(default.networks),
        no_imap: table.optional("no_imap", &form).or(default.no_imap),
        no_pop3: table.optional("no_pop3", &form).or(default.no_pop3),
    }
}

fn cache(table: &mut Section<'_>) -> CacheSettings {
    let default = CacheSettings::default();
    let age = form::duration(Duration::ZERO..=DAY);
    CacheSettings {
        entries: table.or("entries", &form::integer(0..=100_000_000), default.entries),
        ttl: table.or("ttl", &age, default.ttl),
        negative_ttl: table.or("negative_ttl", &age, default.negative_ttl),
        max_stale: table.or(
            "max_stale",
            &form::duration(Duration::ZERO..=WEEK),
            default.max_stale,
        ),
    }
}

/// How changes are followed, and what becomes of sessions.
fn follow(table: &mut Section<'_>, kind: Option<Kind>) -> FollowSettings {
    let default = FollowSettings::default();
    let by = table.or("by", &form::word(FOLLOW), default.by);
    if matches!((kind, by), (Some(Kind::File), Follow::Sync | Follow::Poll)) {
        let problem = "not with kind = \"file\" (expected \"auto\" or \"off\")";
        table.problem("by", problem);
    }
    let unused = match (kind, by) {
        (Some(Kind::File), _) => Some("not used with kind = \"file\""),
        (_, Follow::Off) => Some(UNFOLLOWED),
        (_, Follow::Sync) => Some("not used with by = \"sync\""),
        (_, Follow::Auto | Follow::Poll) => None,
    };
    if let Some(problem) = unused.filter(|_| table.has("poll_every")) {
        table.problem("poll_every", problem);
    }
    let poll_every = table.or(
        "poll_every",
        &form::duration(SHORTEST..=HOUR),
        default.poll_every,
    );
    let ends = table.or("sessions", &form::word(SESSIONS), true);
    let within = form::duration(Duration::ZERO..=HOUR);
    let within = table.or("end_within", &within, Duration::ZERO);
    if by == Follow::Off {
        for name in ["sessions", "end_within"] {
            if table.has(name) {
                table.problem(name, UNFOLLOWED);
            }
        }
    } else if !ends && table.has("end_within") {
        table.problem("end_within", "not used with sessions = \"leave\"");
    }
    FollowSettings {
        by,
        poll_every,
        sessions: if ends {
            Sessions::End(within)
        } else {
            Sessions::Leave
        },
    }
}

/// The path of a home, as [`SchemaSettings::default_home`] wants it.
fn home() -> Form<String> {
    form::parsed(
        "a path with %u or %n in it, and no other % than %d, as \"%d/%n\"",
        |text| {
            let is_one = !text.chars().any(char::is_control) && places(text)?.1;
            is_one.then(|| text.to_owned())
        },
    )
}

/// A text with `x` in the places for a name, and whether one of them is the account's; none for other `%`.
fn places(text: &str) -> Option<(String, bool)> {
    let mut is_own = false;
    let mut tried = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            tried.push(c);
            continue;
        }
        is_own |= match chars.next()? {
            'u' | 'n' => true,
            'd' => false,
            _ => return None,
        };
        tried.push('x');
    }
    Some((tried, is_own))
}

/// A filter that `ldap3` takes, that asks for the login, and that has no other `%` than the known ones.
fn filter() -> Form<String> {
    form::parsed(
        "an LDAP filter in parentheses with %u or %n in it, and no other % than %d",
        |text| {
            let (tried, login) = places(text)?;
            let whole = text.starts_with('(') && ldap3::parse_filter(&tried).is_ok();
            (login && whole).then(|| text.to_owned())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_ask_for_the_login() {
        let good = |text: &str| filter().read(&toml::Value::String(text.to_owned())).is_ok();
        for (_, preset) in Preset::ALL {
            assert!(good(preset.filter()), "{preset:?}");
            assert!(good(preset.delivery_filter()), "{preset:?}");
        }
        for text in ["(uid=%n)", "(&(uid=%n)(mail=*@%d))"] {
            assert!(good(text), "{text}");
        }
        for text in [
            "(uid=ann)",
            "(domain=%d)",
            "(uid=%u",
            "(uid=%u))",
            "uid=%u",
            "(uid=%s)",
            "(uid=%u)%",
            "((uid=%u)",
            "",
        ] {
            assert!(!good(text), "{text}");
        }
    }
}
