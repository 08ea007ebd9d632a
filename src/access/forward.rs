//! Forward authentication: asks the app, with the client's own credentials, who the caller is.
//!
//! Invariants:
//!
//! - There is one request per credential at a time, for any number of clients; its response is
//!   reused for `cache`.
//! - Only a response admits a caller. A failure (no response, 5xx, a response that cannot be read)
//!   is not a refusal: it turns new streams away for a while, and ends open ones only if it lasts.
//! - One address has at most half of the concurrent requests, so it cannot block all others.
//! - The memory used for invented credentials is bounded ([`super::sessions`]).
//! - A response is valid from the time its request was sent: the caller may sign out meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::claims::{Claims, MAX_BYTES};
use super::credentials::Forwarded;
use super::http::{Answer, Http};
use super::limited::Limited;
use super::sessions::{Session, Sessions, Turns};
use super::{Caller, RightEnd};
use crate::config::{ClaimsFrom, ForwardAuth};
use crate::tasks::Tasks;

/// Questions to the app at the same time: a crowd that comes back at once must not be more than
/// the app can take.
const MAX_QUESTIONS: usize = 64;
/// Requests that wait for their turn; a further one fails at once.
const MAX_WAITING: usize = 4096;
/// How long a credential is not asked about again after a failure.
const PAUSE: Duration = Duration::from_secs(1);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The app's answer about a credential.
#[derive(Debug, Clone)]
pub enum AuthAnswer {
    Vouched(Vouched),
    /// The app does not accept the credentials.
    Unknown,
    /// The app knows the caller, and refuses.
    Forbidden,
}

/// A caller whom the app admitted.
#[derive(Debug, Clone)]
pub struct Vouched {
    pub caller: Arc<Caller>,
    /// The credentials for rechecks.
    pub credentials: Arc<Forwarded>,
}

/// An answer, and when it was requested.
#[derive(Debug, Clone)]
pub struct CachedAnswer {
    pub verdict: AuthAnswer,
    pub at: Instant,
}

/// Asks the app who the caller is, and keeps the answers for `auth.forward.cache`.
#[derive(Debug)]
pub struct Forward {
    settings: ForwardAuth,
    http: Http,
    tasks: Tasks,
    sessions: Mutex<Sessions>,
    questions: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The same for each address.
    turns: Turns,
    trouble: Limited,
}

impl Forward {
    /// Nothing is asked before the first caller.
    pub fn new(settings: ForwardAuth, http: Http, tasks: Tasks) -> Forward {
        Forward {
            settings,
            http,
            tasks,
            sessions: Mutex::default(),
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            waiting: Arc::new(Semaphore::new(MAX_QUESTIONS + MAX_WAITING)),
            turns: Turns::new(MAX_QUESTIONS / 2, (MAX_QUESTIONS + MAX_WAITING) / 2),
            trouble: Limited::default(),
        }
    }

    /// `auth.forward` of the settings.
    pub fn settings(&self) -> &ForwardAuth {
        &self.settings
    }

    /// The header fields that are credentials here.
    pub fn pick<'v>(&self, values: &dyn Fn(&str) -> Vec<&'v [u8]>) -> Vec<(HeaderName, Vec<u8>)> {
        let mut fields = Vec::new();
        for name in &self.settings.headers {
            let found = values(name.as_str());
            match found.as_slice() {
                [] => {}
                // HTTP/2 may send each cookie in a field of its own; in HTTP/1.1 they are one.
                several if *name == header::COOKIE => {
                    fields.push((name.clone(), several.join(&b"; "[..])));
                }
                several => fields.extend(several.iter().map(|v| (name.clone(), v.to_vec()))),
            }
        }
        fields
    }

    /// What the app says about a credential, by an answer that may be as old as `cache`. `None`:
    /// trouble.
    pub async fn ask(self: &Arc<Forward>, credentials: &Arc<Forwarded>) -> Option<CachedAnswer> {
        let cache = self.settings.cache;
        self.ask_for(credentials, |said| said.at.elapsed() < cache).await
    }

    /// As [`Forward::ask`], by an answer that is newer than `at`.
    async fn ask_since(
        self: &Arc<Forward>,
        credentials: &Arc<Forwarded>,
        at: Instant,
    ) -> Option<CachedAnswer> {
        self.ask_for(credentials, |said| said.at > at).await
    }

    async fn ask_for(
        self: &Arc<Forward>,
        credentials: &Arc<Forwarded>,
        is_good: impl Fn(&CachedAnswer) -> bool,
    ) -> Option<CachedAnswer> {
        let session = self.session(credentials);
        if let Some(said) = session.said.lock().as_ref().filter(|said| is_good(said)) {
            return Some(said.clone());
        }
        if session.trouble_at.lock().is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        let asking = session.question.ask((&self.tasks, "auth-question"), || {
            let (me, session) = (self.clone(), session.clone());
            let credentials = credentials.clone();
            async move { me.question(&session, credentials).await }
        });
        // The question has a deadline of its own; this one is for a turn that does not come.
        tokio::time::timeout(self.settings.timeout, asking).await.ok()??
    }

    async fn question(
        self: Arc<Forward>,
        session: &Session,
        credentials: Arc<Forwarded>,
    ) -> Option<CachedAnswer> {
        let said = self.put(credentials).await;
        match &said {
            Some(said) => {
                *session.said.lock() = Some(said.clone());
                *session.trouble_at.lock() = None;
            }
            None => *session.trouble_at.lock() = Some(Instant::now()),
        }
        said
    }

    async fn put(&self, credentials: Arc<Forwarded>) -> Option<CachedAnswer> {
        let _waiting = self.waiting.try_acquire().ok()?;
        let own = self.turns.of(credentials.address)?;
        let turns = async { Some((own.acquire().await?, self.questions.acquire().await.ok()?)) };
        let _turns = tokio::time::timeout(self.settings.timeout, turns).await.ok()??;
        let at = Instant::now();
        let headers = request(&credentials)?;
        let ForwardAuth { url, timeout, claims, .. } = &self.settings;
        let answer = self.http.get(url, headers, MAX_BYTES, *timeout).await;
        let verdict = answer.and_then(|answer| {
            read(&answer, claims).map(|meaning| match meaning {
                Meaning::Vouched(claims) => {
                    let caller = Arc::new(Caller::new(claims, credentials.address));
                    AuthAnswer::Vouched(Vouched { caller, credentials })
                }
                Meaning::Unknown => AuthAnswer::Unknown,
                Meaning::Forbidden => AuthAnswer::Forbidden,
            })
        });
        match verdict {
            Ok(verdict) => Some(CachedAnswer { verdict, at }),
            Err(reason) => {
                self.trouble.warn(&format!("auth.forward.url gave no usable response: {reason}"));
                None
            }
        }
    }

    fn session(&self, credentials: &Forwarded) -> Arc<Session> {
        self.sessions.lock().of(credentials.digest(), self.settings.cache)
    }

    /// Asks again and again; returns when the right to this stream has ended, and why. `fits` says whether an
    /// open stream may go on with what is known of its caller now; `is_due` is true while a question
    /// is due or under way, and has not been answered or given up yet.
    pub async fn watch(
        self: &Arc<Forward>,
        mut vouched: Vouched,
        mut at: Instant,
        is_due: &AtomicBool,
        mut fits: impl FnMut(&Arc<Caller>) -> bool,
    ) -> RightEnd {
        let ForwardAuth { recheck, max_outage, .. } = self.settings;
        loop {
            // Never later than `recheck`; earlier by chance, so that those who came together do
            // not all ask together.
            tokio::time::sleep_until(at + recheck.mul_f64(1.0 - fastrand::f64() / 5.0)).await;
            let said = loop {
                is_due.store(true, Ordering::Relaxed);
                let said = self.ask_since(&vouched.credentials, at).await;
                is_due.store(false, Ordering::Relaxed);
                match said {
                    Some(said) => break said,
                    None if at.elapsed() >= recheck + max_outage => return RightEnd::Unanswered,
                    None => {
                        let pause = PAUSE.max(recheck / 4).min(Duration::from_secs(30));
                        let end = at + recheck + max_outage;
                        tokio::time::sleep_until(end.min(Instant::now() + pause)).await;
                    }
                }
            };
            match said.verdict {
                AuthAnswer::Vouched(again) if fits(&again.caller) => {
                    (vouched, at) = (again, said.at)
                }
                _ => return RightEnd::Refused,
            }
        }
    }
}

/// `None` for bytes that no header can hold, which the gate lets nobody send.
fn request(credentials: &Forwarded) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let forwarded =
        [(X_FORWARDED_HOST, &credentials.host), (X_FORWARDED_PROTO, &credentials.scheme)];
    for (name, value) in forwarded {
        if !value.is_empty() {
            headers.insert(name, HeaderValue::from_bytes(value).ok()?);
        }
    }
    if let Some(address) = credentials.address {
        let address = HeaderValue::from_str(&address.to_string()).ok()?;
        headers.insert(X_FORWARDED_FOR, address);
    }
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    for (name, value) in &credentials.fields {
        let mut value = HeaderValue::from_bytes(value).ok()?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Some(headers)
}

#[derive(Debug, PartialEq)]
enum Meaning {
    Vouched(Claims),
    Unknown,
    Forbidden,
}

/// What an answer means. An error is a failure of the service, not a refusal.
fn read(answer: &Answer, claims: &ClaimsFrom) -> Result<Meaning, String> {
    match answer.status {
        200..=299 => {}
        403 => return Ok(Meaning::Forbidden),
        // Elsewhere is a page to sign in, most likely. Who is let in is told the answer here.
        300..=399 => return Ok(Meaning::Unknown),
        status @ (408 | 425 | 429) => return Err(format!("it answered {status}")),
        400..=499 => return Ok(Meaning::Unknown),
        status => return Err(format!("it answered {status}")),
    }
    match claims {
        ClaimsFrom::Body => match answer.body.trim_ascii() {
            b"" => Ok(Meaning::Vouched(Claims::none())),
            // How an app says "nobody" in JSON.
            b"null" | b"false" => Ok(Meaning::Unknown),
            // Not to be taken for somebody: apps answer a page with 200 to those who have to sign
            // in, too.
            body => Claims::from_json(body)
                .map(Meaning::Vouched)
                .map_err(|reason| format!("{reason}; the body has to be a JSON object, or empty")),
        },
        // Text or JSON by the setting, never by what it looks like: whoever may choose a name would
        // choose claims.
        ClaimsFrom::Header(name) => match only(answer, name)?.trim_ascii() {
            b"" | b"null" => Ok(Meaning::Unknown),
            name => match std::str::from_utf8(name) {
                Ok(name) => Ok(Meaning::Vouched(Claims::of_subject(name))),
                Err(_) => Err("the header field is not UTF-8".to_owned()),
            },
        },
        ClaimsFrom::HeaderJson(name) => match only(answer, name)?.trim_ascii() {
            b"" | b"null" | b"false" => Ok(Meaning::Unknown),
            json => Claims::from_json(json)
                .map(Meaning::Vouched)
                .map_err(|reason| format!("{reason}; `{name}` has to be a JSON object")),
        },
    }
}

/// The one field of this name.
fn only<'a>(answer: &'a Answer, name: &HeaderName) -> Result<&'a [u8], String> {
    let mut values = answer.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        _ => Err(format!("it does not have exactly one header field `{name}`")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn answers_and_what_they_mean() {
        let claims = |json: &str| Claims::from_json(json.as_bytes()).unwrap();
        let vouched = |json: &str| Ok(Meaning::Vouched(claims(json)));
        let body = |status: u16, body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            read(&Answer { status, headers: HeaderMap::new(), body }, &ClaimsFrom::Body)
        };
        assert_eq!(body(200, r#" {"sub":"ada"} "#), vouched(r#"{"sub":"ada"}"#));
        assert_eq!(body(204, ""), vouched("{}"));
        for (status, text) in [(200, "null"), (302, ""), (401, "{}"), (404, ""), (400, "")] {
            assert_eq!(body(status, text), Ok(Meaning::Unknown), "{status} {text}");
        }
        assert_eq!(body(403, r#"{"sub":"ada"}"#), Ok(Meaning::Forbidden));
        for (status, text) in
            [(200, "<html>"), (200, "[]"), (200, "\"a\""), (500, ""), (503, "{}"), (429, "")]
        {
            assert!(body(status, text).is_err(), "{status} {text}");
        }
        let header = |from: fn(HeaderName) -> ClaimsFrom, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-user", HeaderValue::from_static(value));
            }
            let from = from(HeaderName::from_static("x-user"));
            read(&Answer { status: 200, headers, body: Bytes::from_static(b"<html>") }, &from)
        };
        let text = |values: &[&'static str]| header(ClaimsFrom::Header, values);
        assert_eq!(text(&["ada"]), vouched(r#"{"sub":"ada"}"#));
        let name = Claims::of_subject(r#"{"sub":"ada","role":"admin"}"#);
        assert_eq!(text(&[r#"{"sub":"ada","role":"admin"}"#]), Ok(Meaning::Vouched(name)));
        assert_eq!(text(&[""]), Ok(Meaning::Unknown));
        assert!(text(&[]).is_err() && text(&["a", "b"]).is_err());
        let json = |values: &[&'static str]| header(ClaimsFrom::HeaderJson, values);
        assert_eq!(json(&[r#"{"sub":"ada","n":1}"#]), vouched(r#"{"sub":"ada","n":1}"#));
        assert_eq!(json(&["null"]), Ok(Meaning::Unknown));
        assert!(json(&["ada"]).is_err() && json(&["{"]).is_err() && json(&["{}", "{}"]).is_err());
    }
}
