//! `[proxy.policy]`: who is asked before a password is looked at.
//!
//! The table may be missing: then nobody is. What is secret (the nonce, the header) comes from files.

use std::time::Duration;

use super::{
    HOUR, SHORTEST,
    files::{self, System},
    form,
    section::Section,
};
use crate::policy::{Header, OnFailure, Settings, Url};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Dovecot's.
const HASH_BITS: u16 = 12;
/// Clients give up after a minute or so.
const MAX_TARPIT: Duration = Duration::from_secs(30);
const LONGEST_TARPIT: Duration = Duration::from_secs(10 * 60);

const ON_FAILURE: &[(&str, OnFailure)] =
    &[("accept", OnFailure::Accept), ("reject", OnFailure::Reject)];

/// Reads the section; `Some(None)` when there is none.
pub(super) fn read(section: &mut Section<'_>, system: &System) -> Option<Option<Settings>> {
    if !section.is_present() {
        return Some(None);
    }
    let url = section.required(
        "url",
        &form::parsed(
            "\"http://host[:port][/path]\" or \"https://...\"",
            Url::parse,
        )
        .quiet(),
    );
    let is_encrypted = url.as_ref().is_some_and(Url::is_encrypted);
    let ca_file = files::authorities(section, system, is_encrypted);
    let nonce = files::password(section, "nonce_file");
    let header = header(section);
    let settings = (
        section.or("hash_bits", &form::integer(0..=256), HASH_BITS),
        section.or("check_before", &form::boolean(), true),
        section.or("report_after", &form::boolean(), true),
        section.or("timeout", &form::duration(SHORTEST..=HOUR), TIMEOUT),
        section.or("on_failure", &form::word(ON_FAILURE), OnFailure::Accept),
        section.or(
            "max_tarpit",
            &form::duration(Duration::ZERO..=LONGEST_TARPIT),
            MAX_TARPIT,
        ),
    );
    let (hash_bits, check_before, report_after, timeout, on_failure, max_tarpit) = settings;
    if url.as_ref().is_some_and(Url::is_exposed) {
        section.report().warn(format!(
            "{}: who logs in from where goes over the network in clear",
            section.key("url")
        ));
    }
    Some(Some(Settings {
        url: url?,
        ca_file,
        header: header?,
        nonce: nonce?,
        hash_bits,
        check_before,
        report_after,
        timeout,
        on_failure,
        max_tarpit,
    }))
}

/// What the server knows us by; `Some(None)` when it need not.
fn header(section: &mut Section<'_>) -> Option<Option<Header>> {
    const NAME: &str = "header_file";
    let is_wanted = section.has(NAME);
    let Some(text) = files::optional_password(section, NAME) else {
        return (!is_wanted).then_some(None);
    };
    let header = Header::parse(&text);
    if header.is_none() {
        section.problem(
            NAME,
            "does not hold a header (expected \"Name: value\", or the value of X-API-Key)",
        );
    }
    header.map(Some)
}
