//! Clients that show certificates.

use rcgen::{
    CertificateRevocationListParams, ExtendedKeyUsagePurpose, KeyIdMethod, RevokedCertParams,
    SerialNumber,
};
use rustls::version::{TLS12, TLS13};

use super::*;

const NAME: &str = "mail.example.org";

/// A certificate of somebody with this serial number.
fn somebody(serial: u64, emails: &[&str], common_names: &[&str]) -> CertificateParams {
    let mut params = params(&[]);
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = emails
        .iter()
        .map(|email| SanType::Rfc822Name((*email).try_into().unwrap()))
        .collect();
    params.distinguished_name = DistinguishedName::new();
    for name in common_names {
        params.distinguished_name.push(DnType::CommonName, *name);
    }
    params
}

impl Lab {
    fn client_of(
        &self,
        signer: &Self,
        params: &CertificateParams,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let (certificate, key) = signer.sign(params);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }

    fn asked(&self, login: LoginFrom, required: bool) -> Settings {
        let authorities = self.write("clients.pem", &pem("CERTIFICATE", &self.root), 0o644);
        Settings {
            clients: Some(ClientSettings {
                authorities,
                revocations: None,
                required,
                login,
            }),
            ..self.settings()
        }
    }

    /// A list that revokes these, from a time to another.
    fn revoke(&self, serials: &[u64], years: [i32; 2]) -> PathBuf {
        let [this_update, next_update] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        self.write("clients.crl", &pem("X509 CRL", list.der()), 0o644)
    }
}

async fn login(tls: &Tls, client: &Arc<ClientConfig>) -> Result<Option<String>, String> {
    let met = meet(tls, Oldest::Tls12, client, NAME).await?;
    Ok(met.login.map(|login| login.to_string()))
}

#[tokio::test]
async fn the_login_stands_where_the_settings_say() {
    use LoginFrom::{CommonName, Either, Email};
    let lab = Lab::new();
    let mails: &[&str] = &["ann@example.org", "other@example.org"];
    for (from, emails, common_names, expected) in [
        (Email, mails, &["ann"][..], Some("ann@example.org")),
        (Email, &[], &["ann"], None),
        (CommonName, mails, &["ann"], Some("ann")),
        (CommonName, mails, &[], None),
        (CommonName, mails, &["a\tb"], None),
        (Either, mails, &["ann"], Some("ann@example.org")),
        (Either, &[], &["Zoë"], Some("Zoë")),
        (Either, &[], &[], None),
    ] {
        let (tls, _) = Tls::load(&lab.asked(from, false)).unwrap();
        for versions in [&[&TLS12], &[&TLS13]] {
            let client = lab.client_of(&lab, &somebody(7, emails, common_names), versions);
            // The second is resumed.
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let met = meet(&tls, Oldest::Tls12, &client, NAME).await.unwrap();
                assert_eq!(met.login.as_ref().map(Login::as_str), expected, "{from:?}");
                assert_eq!(met.kind, kind);
            }
        }
    }
}

#[tokio::test]
async fn only_certificates_of_the_authorities_are_believed() {
    let (lab, foreign) = (Lab::new(), Lab::new());
    let good = somebody(7, &["ann@example.org"], &[]);
    let mut expired = good.clone();
    expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let mut of_servers = good.clone();
    of_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for required in [false, true] {
        let (tls, _) = Tls::load(&lab.asked(LoginFrom::Email, required)).unwrap();
        for versions in [&[&TLS12], &[&TLS13]] {
            let nobody = Arc::new(lab.client(versions));
            assert_eq!(login(&tls, &nobody).await.is_err(), required);
            for (signer, params) in [(&foreign, &good), (&lab, &expired), (&lab, &of_servers)] {
                let client = lab.client_of(signer, params, versions);
                login(&tls, &client).await.unwrap_err();
            }
            let client = lab.client_of(&lab, &good, versions);
            let login = login(&tls, &client).await;
            assert_eq!(login.unwrap().as_deref(), Some("ann@example.org"));
        }
    }
}

/// Also where a session is resumed, and when the list comes later.
#[tokio::test]
async fn revoked_certificates_are_not_believed() {
    let lab = Lab::new();
    for required in [false, true] {
        let mut settings = lab.asked(LoginFrom::Email, required);
        let list = lab.revoke(&[8], [2020, 2090]);
        settings.clients.as_mut().unwrap().revocations = Some(list);
        settings.ticket_keys = Some(lab.write(
            "tickets",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",
            0o600,
        ));
        for versions in [&[&TLS12], &[&TLS13]] {
            lab.revoke(&[8], [2020, 2090]);
            let (tls, mut keeper) = Tls::load(&settings).unwrap();
            let [seven, eight] = [7, 8].map(|serial| {
                let params = somebody(serial, &["ann@example.org"], &[]);
                lab.client_of(&lab, &params, versions)
            });
            login(&tls, &eight).await.unwrap_err();
            assert!(login(&tls, &seven).await.unwrap().is_some());
            assert!(login(&tls, &seven).await.unwrap().is_some());
            lab.revoke(&[7, 8], [2020, 2090]);
            assert!(matches!(keeper.look()[..], [News::Taken(Of::Clients)]));
            let resumed = login(&tls, &seven).await;
            if required {
                resumed.unwrap_err();
            } else {
                assert_eq!(resumed, Ok(None));
            }
            // A list that is too old says nothing of anybody.
            lab.revoke(&[], [2020, 2021]);
            assert!(matches!(keeper.look()[..], [News::Taken(Of::Clients)]));
            let six = somebody(6, &["ann@example.org"], &[]);
            login(&tls, &lab.client_of(&lab, &six, versions))
                .await
                .unwrap_err();
        }
    }
}

/// A ticket from where nothing was asked, or other authorities, is none.
#[tokio::test]
async fn tickets_are_bound_to_what_was_asked() {
    let (lab, foreign) = (Lab::new(), Lab::new());
    let tickets = lab.write(
        "tickets",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",
        0o600,
    );
    let front = |settings: Settings| {
        let ticket_keys = Some(tickets.clone());
        let settings = Settings {
            ticket_keys,
            ..settings
        };
        Tls::load(&settings).unwrap().0
    };
    let asks_nothing = front(lab.settings());
    let optional = front(lab.asked(LoginFrom::Email, false));
    let mut others = lab.asked(LoginFrom::Email, false);
    let path = lab.write("foreign.pem", &pem("CERTIFICATE", &foreign.root), 0o644);
    others.clients.as_mut().unwrap().authorities = path;
    let others = front(others);
    let required = front(lab.asked(LoginFrom::Email, true));
    for versions in [&[&TLS12], &[&TLS13]] {
        let params = somebody(7, &["ann@example.org"], &[]);
        for (first, second) in [(&asks_nothing, &optional), (&optional, &required)] {
            let client = lab.client_of(&lab, &params, versions);
            login(first, &client).await.unwrap();
            let met = meet(second, Oldest::Tls12, &client, NAME).await.unwrap();
            assert_eq!(met.kind, HandshakeKind::Full);
            assert!(met.login.is_some());
        }
        let theirs = lab.client_of(&lab, &params, versions);
        login(&optional, &theirs).await.unwrap();
        login(&others, &theirs).await.unwrap_err();
        let nobody = Arc::new(lab.client(versions));
        login(&optional, &nobody).await.unwrap();
        login(&required, &nobody).await.unwrap_err();
    }
}
