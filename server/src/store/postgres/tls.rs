//! Encryption on the way to the server, as its URL asks for it: `sslmode`, `sslrootcert`, `sslcert` and `sslkey` mean what they mean to
//! every other client of Postgres.
//!
//! | `sslmode` | encrypted | the server's certificate |
//! |---|---|---|
//! | `disable` | no | |
//! | `prefer`, the default | if the server can | anything |
//! | `require` | yes | anything; with `sslrootcert` as for `verify-ca` |
//! | `verify-ca` | yes | signed by one that is trusted |
//! | `verify-full` | yes | signed by one that is trusted, for the host in the URL |
//!
//! Trusted is what is in the file that `sslrootcert` names, or the system's own where it names none or `system`. A certificate that is
//! itself in the file is trusted too. Where the server can bind a password to the channel, the driver does (`channel_binding`).

use std::path::Path;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Error;
use tokio_postgres::config::SslMode;
pub(super) use tokio_postgres_rustls::MakeRustlsConnect as Tls;

/// What must hold of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Anything,
    Issuer,
    IssuerAndName,
}

/// Takes what is about encryption out of a URL: gives the URL without it, the driver's mode, and what makes the encryption.
///
/// # Errors
/// A sentence about the URL, which has no word of its password.
pub(super) fn of_url(url: &str) -> Result<(String, SslMode, Tls), String> {
    if url.matches('@').count() > 1 {
        return Err(
            "has more than one @: one that is part of a user, a password or a parameter is written %40".to_owned(),
        );
    }
    let start = url.find('@').unwrap_or(0);
    let (place, parameters) = match url[start..].find('?') {
        Some(at) => (&url[..start + at], &url[start + at + 1..]),
        None => (url, ""),
    };
    let mut asked = Asked::default();
    let mut others = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let slot = match name {
            "sslmode" => &mut asked.mode,
            "sslrootcert" => &mut asked.roots,
            "sslcert" => &mut asked.certificate,
            "sslkey" => &mut asked.key,
            _ => {
                others.push(parameter);
                continue;
            }
        };
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| format!("has a {name} that is not UTF-8"))?;
        *slot = (!value.is_empty()).then(|| value.into_owned());
    }
    let (mode, config) = asked.config()?;
    let mut url = place.to_owned();
    if !others.is_empty() {
        url.push('?');
        url.push_str(&others.join("&"));
    }
    Ok((url, mode, Tls::new(config)))
}

/// What a URL asks for.
#[derive(Default)]
struct Asked {
    mode: Option<String>,
    roots: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Asked {
    fn config(&self) -> Result<(SslMode, ClientConfig), String> {
        let (mode, trust) = match self.mode.as_deref() {
            Some("disable") => (SslMode::Disable, Trust::Anything),
            None | Some("prefer") => (SslMode::Prefer, Trust::Anything),
            Some("require") if self.roots.is_none() => (SslMode::Require, Trust::Anything),
            Some("require" | "verify-ca") => (SslMode::Require, Trust::Issuer),
            Some("verify-full") => (SslMode::Require, Trust::IssuerAndName),
            Some(_) => {
                return Err(
                    "has an sslmode that is none of disable, prefer, require, verify-ca and verify-full".to_owned(),
                );
            }
        };
        if self.roots.is_some() && trust == Trust::Anything {
            return Err("has an sslrootcert that nothing would be held against: it needs sslmode=verify-full, verify-ca or require".to_owned());
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier::new(trust, self.roots.as_deref(), Arc::clone(&provider))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot be spoken to with TLS: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.certificate, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates("sslcert", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("has an sslkey ({key}) that cannot be read: {error}"))?;
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|error| format!("has an sslcert and an sslkey that do not fit: {error}"))?
            }
            _ => return Err("has one of sslcert and sslkey, and needs both or none".to_owned()),
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok((mode, config))
    }
}

/// The certificates in a file.
fn certificates(parameter: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(Path::new(path))?.collect::<Result<Vec<_>, _>>();
    let certificates = read().map_err(|error| format!("has an {parameter} ({path}) that cannot be read: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("has an {parameter} ({path}) without a certificate in it"));
    }
    Ok(certificates)
}

/// Holds a server's certificate against what must hold of it.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    roots: RootCertStore,
    /// The certificates of the file, also where they cannot sign others.
    known: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: Trust, roots: Option<&str>, provider: Arc<CryptoProvider>) -> Result<Verifier, String> {
        let known = match roots {
            _ if trust == Trust::Anything => Vec::new(),
            None | Some("system") => {
                let found = rustls_native_certs::load_native_certs();
                if found.certs.is_empty() {
                    return Err(
                        "needs certificates to trust, and this system has none: name a file of them with sslrootcert"
                            .to_owned(),
                    );
                }
                found.certs
            }
            Some(path) => certificates("sslrootcert", path)?,
        };
        let mut roots = RootCertStore::empty();
        // What cannot sign others may still be the server's own.
        roots.add_parsable_certificates(known.iter().cloned());
        Ok(Verifier {
            trust,
            roots,
            known,
            provider,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.trust == Trust::Anything {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let signed =
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms);
        match signed {
            Err(error) if is_out_of_time(&error) => return Err(error),
            Err(error) if !self.known.contains(end_entity) => return Err(error),
            _ => {}
        }
        if self.trust == Trust::IssuerAndName {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.trust == Trust::Anything {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Whoever may show any certificate may also show one of their own, and sign with it.
        if self.trust == Trust::Anything {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_out_of_time(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(
        error,
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
    )
}

/// What went wrong with the encryption; nothing if it was something else. The server was not reached then.
pub(super) fn explain(error: &Error) -> Option<String> {
    // The driver does not tell in any other way what kind of an error it is.
    if !error.to_string().starts_with("error performing TLS handshake") {
        return None;
    }
    let cause = std::error::Error::source(error);
    let io = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let tls = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
    use CertificateError::{BadSignature, NotValidForName, NotValidForNameContext, UnknownIssuer};
    Some(match tls {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            // The second where somebody else has the name of one that is trusted.
            UnknownIssuer | BadSignature => {
                "the server's certificate is signed by none that is trusted (sslrootcert)".to_owned()
            }
            NotValidForName | NotValidForNameContext { .. } => {
                format!("the server's certificate is not for the host in the URL: {problem}")
            }
            problem => format!("the server's certificate is no good: {problem}"),
        },
        _ => {
            let cause = cause.map(ToString::to_string).unwrap_or_default();
            format!("no encrypted connection could be made: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_encryption_is_taken_out_of_the_url() {
        let url = "postgres://u:p%40?x@h:1,i:2/d?sslmode=require&application_name=a&sslrootcert=&connect_timeout=3";
        let (left, mode, _) = of_url(url).expect("a URL");
        assert_eq!(
            left,
            "postgres://u:p%40?x@h:1,i:2/d?application_name=a&connect_timeout=3"
        );
        assert!(matches!(mode, SslMode::Require));
        let (left, mode, _) = of_url("postgres://h/d?sslmode=disable").expect("a URL");
        assert_eq!(left, "postgres://h/d");
        assert!(matches!(mode, SslMode::Disable));
        assert!(matches!(of_url("postgres://h/d").expect("a URL").1, SslMode::Prefer));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_a_word_of_the_password() {
        for (parameters, complaint) in [
            ("sslmode=allow", "verify-full"),
            ("sslrootcert=/tmp/x", "sslrootcert"),
            ("sslmode=prefer&sslrootcert=/tmp/x", "sslrootcert"),
            ("sslmode=verify-full&sslrootcert=/no/such/file", "/no/such/file"),
            ("sslmode=require&sslcert=/no/such/file", "both"),
            (
                "sslmode=require&sslcert=/no/such/file&sslkey=/no/such/key",
                "/no/such/file",
            ),
        ] {
            let error = of_url(&format!("postgres://u:hunter2@h/d?{parameters}"))
                .err()
                .expect(parameters);
            assert!(
                error.contains(complaint) && !error.contains("hunter2"),
                "{parameters}: {error}"
            );
        }
        let error = of_url("postgres://u:hunt@er2?x=y@h/d").err().expect("two @");
        assert!(error.contains("%40") && !error.contains("er2"), "{error}");
    }
}
