//! An account that is asked for again: what a login costs when the directory has nothing new to say.
//!
//! Behind the cache stands an LDAP server that is asked before, and not while it is measured. The accounts file is a
//! table in memory, and only the proof of a password is kept.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use pigeonair::{
    directory::{
        AddressSettings, Attributes, CacheSettings, Directory, FileSettings, FollowSettings,
        LdapSettings, LdapUri, SchemaSettings, ServiceAccount, Settings, Source, Verify, Visit,
    },
    metrics::Metrics,
    names::{Login, Protocol},
    secret::Secret,
    tasks::Tasks,
};
use sha2::{Digest as _, Sha256};
use tokio::runtime::{Builder, Runtime};

use super::{Criterion, clock::CpuTime, ldap};

const PASSWORD: &[u8] = b"correct horse 4";
const VISIT: Visit = Visit {
    protocol: Protocol::Imap,
    client: IpAddr::V4(Ipv4Addr::LOCALHOST),
};

pub(crate) fn run(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.toml");
    let digest = BASE64.encode(Sha256::digest(PASSWORD));
    let account = format!(
        "[[account]]\nname = \"ann\"\npassword = \"{{SHA256}}{digest}\"\nuid = 5000\ngid = 5000\n\
        home = \"/m/ann\"\nhome_node = \"node-1\"\n"
    );
    fs::write(&path, account).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let login = Login::parse("ann").unwrap();
    let password = Secret::new(PASSWORD.to_vec());

    for (name, source) in [
        ("LDAP, cached", Source::Ldap(Box::new(ldap_settings()))),
        ("file", Source::File(FileSettings { path })),
    ] {
        let directory = start(&runtime, source);
        criterion.bench_function(&format!("directory/{name}, authenticate"), |bencher| {
            bencher.iter_custom(|calls| {
                runtime.block_on(async {
                    directory
                        .authenticate(&login, &password, VISIT)
                        .await
                        .unwrap();
                    let start = CpuTime::now();
                    for _ in 0..calls {
                        directory
                            .authenticate(&login, &password, VISIT)
                            .await
                            .unwrap();
                    }
                    CpuTime::now() - start
                })
            });
        });
        criterion.bench_function(&format!("directory/{name}, find"), |bencher| {
            bencher.iter_custom(|calls| {
                runtime.block_on(async {
                    directory.find(&login).await.unwrap();
                    let start = CpuTime::now();
                    for _ in 0..calls {
                        directory.find(&login).await.unwrap();
                    }
                    CpuTime::now() - start
                })
            });
        });
    }
}

fn start(runtime: &Runtime, source: Source) -> Directory {
    let settings = Settings {
        source,
        addresses: AddressSettings::default(),
        cache: CacheSettings {
            // Nothing grows old while it is measured.
            ttl: Duration::from_secs(3600),
            ..CacheSettings::default()
        },
        follow: FollowSettings::default(),
    };
    let _inside = runtime.enter();
    Directory::start(settings, Metrics::new().unwrap(), Tasks::new()).unwrap()
}

fn ldap_settings() -> LdapSettings {
    let filter = "(uid=%u)".to_owned();
    LdapSettings {
        servers: vec![LdapUri::parse(&ldap::start()).unwrap()],
        start_tls: false,
        ca_file: None,
        client: None,
        service: ServiceAccount::Anonymous,
        schema: SchemaSettings {
            bases: vec!["dc=example,dc=org".to_owned()],
            filters: vec![filter.clone()],
            delivery_filters: vec![filter],
            verify: Verify::Bind,
            attributes: Attributes::default(),
            default_uid: None,
            default_gid: None,
            default_home: "%u".to_owned(),
            quota_unit: 1,
        },
        timeout: Duration::from_secs(5),
        hedge_after: Duration::from_millis(500),
        bind_connections: 1,
    }
}
