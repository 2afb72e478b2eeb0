//! Whether changes can be followed at a server, for administrators: by what means, and what of them is shown to us.

use tokio::time::{Instant, timeout_at};

use super::{
    super::{
        code,
        connection::{Broken, Connection, Reply},
        entry::{ENTRY_UUID, Entry},
        schema::Schema,
        server::Known,
    },
    told::Told,
};
use crate::{directory::Follow, proto::content_sync::SyncInfo};

/// Entries that are looked at, at most: OpenLDAP shows 500 to those whom nobody has given more.
const MAX_ENTRIES: usize = 1001;

/// What was found out about a server.
#[derive(Debug, Default)]
pub(in super::super) struct Findings {
    /// What it does not do.
    pub(in super::super) problems: Vec<String>,
    /// What is good to know.
    pub(in super::super) notes: Vec<String>,
}

/// Finds out how changes are followed at a server.
pub(in super::super) async fn examine(
    server: &Known,
    schema: &Schema,
    by: Follow,
    deadline: Instant,
) -> Findings {
    let mut found = Findings::default();
    if by == Follow::Off {
        return found;
    }
    for base in 0..schema.bases() {
        if let Err(broken) = look(server, schema, (by, base), deadline, &mut found).await {
            let problem = format!("following changes below {}: {broken}", schema.base(base));
            found.problems.push(problem);
            break;
        }
    }
    found
}

async fn look(
    server: &Known,
    schema: &Schema,
    (by, base): (Follow, usize),
    deadline: Instant,
    found: &mut Findings,
) -> Result<(), Broken> {
    let name = schema.base(base);
    let mut connection = server.serving(deadline).await?;
    let polled = "is asked for what was modified instead";
    let refusal = match by {
        Follow::Poll => None,
        _ => {
            let begun = begin(connection, schema, base);
            let begun = timeout_at(deadline, begun).await;
            // The entries that it still sends are nobody's.
            connection = server.serving(deadline).await?;
            begun.unwrap_or(Err(Broken::Late("following changes")))?
        }
    };
    match (by, refusal) {
        (Follow::Poll, _) => found.notes.push(format!("below {name}: {polled}")),
        (_, None) => found
            .notes
            .push(format!("below {name}: tells what changes (RFC 4533)")),
        (Follow::Sync, Some(reply)) => {
            let problem = format!("below {name}: does not tell what changes: {reply}");
            found.problems.push(problem);
        }
        (_, Some(reply)) => found.notes.push(format!(
            "below {name}: does not tell what changes ({reply}), and {polled}"
        )),
    }
    let changed = schema.password_changed();
    let mut unseen = Vec::new();
    if !shows(&mut connection, schema, (base, ENTRY_UUID), deadline).await? {
        let consequence = "so that nobody hears when an account is deleted";
        unseen.push((ENTRY_UUID, consequence));
    }
    let mut says_changes = false;
    for attribute in [Some(changed), schema.password()].into_iter().flatten() {
        says_changes =
            says_changes || shows(&mut connection, schema, (base, attribute), deadline).await?;
    }
    if !says_changes {
        let consequence = "so that a changed password ends no session by it";
        unseen.push((changed, consequence));
    }
    for (attribute, consequence) in unseen {
        let note = format!("below {name}: no account shows {attribute}, {consequence}");
        found.notes.push(note);
    }
    Ok(())
}

/// Whether accounts below a base show an attribute: that one may be searched by does not mean that it may be read.
async fn shows(
    connection: &mut Connection,
    schema: &Schema,
    (base, attribute): (usize, &str),
    deadline: Instant,
) -> Result<bool, Broken> {
    let filter = format!("({attribute}=*)");
    let search = schema.everybody(base, Some(&filter), None);
    let reply = connection.search(&search, deadline).await?;
    let mut entries = reply.entries.into_iter().filter_map(Entry::from_tag);
    Ok(entries.any(|entry| entry.names_without(attribute).is_none()))
}

/// Begins to follow, until it is clear that the server does; else what it says.
async fn begin(
    mut connection: Connection,
    schema: &Schema,
    base: usize,
) -> Result<Option<Reply>, Broken> {
    let search = schema.everybody(base, None, None);
    let mut following = connection.follow(&search, None).await?;
    for _ in 0..MAX_ENTRIES {
        match following.next().await? {
            Told::Ended(reply, _) if reply.code == code::SUCCESS => return Ok(None),
            Told::Ended(reply, _) => return Ok(Some(reply)),
            Told::Info(SyncInfo::RefreshDelete { .. } | SyncInfo::RefreshPresent { .. }) => {
                return Ok(None);
            }
            Told::Entry(..) | Told::Info(_) | Told::Nothing => {}
        }
    }
    Ok(None)
}
