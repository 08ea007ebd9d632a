//! What kind of MongoDB deployment this is, asked once at the start and after failures.

use std::io::ErrorKind;
use std::time::Duration;

use bson::{Document, Timestamp, doc};
use mongodb::Client;
use mongodb::error::Error;
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria, ServerAddress, Tls};
use tokio::net::TcpStream;

use super::MAX_AHEAD_OF_CLOCK_SECONDS;
use super::failure::{self, Failure};
use super::patience::Silence;
use crate::event::Position;

/// For looking whether anything listens at a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What `hello` told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployment {
    /// The newest time that a majority has, or the operation time where that is not told.
    pub majority_time: Timestamp,
    /// The election term of that time; `None` where it is not told.
    pub majority_term: Option<i64>,
    /// The newest time that the answering server knows of.
    pub cluster_time: Timestamp,
    /// Events of one cluster time can come from several shards.
    pub is_sharded: bool,
}

impl Deployment {
    /// Whether no server of this deployment can have given this position yet.
    pub fn is_in_the_future(&self, position: &Position) -> bool {
        position.time().time > self.cluster_time.time.saturating_add(MAX_AHEAD_OF_CLOCK_SECONDS)
    }
}

/// Why there is nothing to watch.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    #[error("this MongoDB is a standalone server")]
    Standalone,
    #[error("this MongoDB runs with --replSet, but the replica set is not initiated")]
    NotInitiated,
    #[error("this server answers like MongoDB but tells no cluster time")]
    Unsupported,
    /// The position to go on from lies in the future of this deployment.
    #[error("this is a different deployment from before, or an older copy of it")]
    OtherDeployment,
    /// The driver would wait for a server that it cannot have.
    #[error("{reason}")]
    InVain { failure: Failure, reason: String },
    /// The next event can be read in no way, or has no place: what lies up to now is lost.
    #[error("the next event cannot be read: {0}")]
    Unreadable(String),
    #[error(transparent)]
    Stalled(#[from] Silence),
    #[error("{}", failure::message(.0))]
    Driver(#[from] Error),
}

impl DeploymentError {
    /// What it means for the streams.
    pub fn failure(&self) -> Failure {
        match self {
            DeploymentError::Standalone => Failure::Standalone,
            DeploymentError::NotInitiated => Failure::NotInitiated,
            DeploymentError::Unsupported => Failure::Unsupported,
            DeploymentError::OtherDeployment => Failure::Fatal,
            DeploymentError::InVain { failure, .. } => *failure,
            DeploymentError::Unreadable(_) => Failure::Unreadable,
            DeploymentError::Stalled(_) => Failure::Passing,
            DeploymentError::Driver(error) => Failure::of(error),
        }
    }

    /// What happened and what to do, in one line without secrets. `seen` is what a look at the
    /// hosts told, and says more than the driver's message.
    pub fn explain(&self, seen: Option<String>, advice: &str) -> String {
        let message = seen.unwrap_or_else(|| self.to_string());
        // "not authorized on shop to execute command { aggregate: …" goes on with all of it.
        let message = message.split_once(" to execute command").map_or(&*message, |(what, _)| what);
        // What a look at the hosts told holds its advice already.
        match message.contains(advice) {
            true => message.to_string(),
            false => format!("{message}; {advice}"),
        }
    }
}

/// Asks a server that the URI's read preference chooses.
///
/// # Errors
/// [`DeploymentError`], each with what to do.
pub async fn ask(client: &Client) -> Result<Deployment, DeploymentError> {
    ask_of(client, client.selection_criteria().cloned()).await
}

/// As [`ask`], of a server that these criteria choose; `None`: of the primary.
pub async fn ask_of(
    client: &Client,
    criteria: Option<SelectionCriteria>,
) -> Result<Deployment, DeploymentError> {
    let admin = client.database("admin");
    let mut command = admin.run_command(doc! { "hello": 1 });
    // `run_command` ignores the client's read preference unless it is told.
    if let Some(criteria) = criteria {
        command = command.selection_criteria(criteria);
    }
    let hello = command.await?;
    let is_sharded = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if !is_sharded && !hello.contains_key("setName") {
        let is_member = hello.get_bool("isreplicaset").unwrap_or(false);
        return Err(match is_member {
            true => DeploymentError::NotInitiated,
            false => DeploymentError::Standalone,
        });
    }
    let time = |document: &Document, key: &str| document.get_timestamp(key).ok();
    let operation_time = time(&hello, "operationTime");
    let majority =
        hello.get_document("lastWrite").and_then(|last| last.get_document("majorityOpTime")).ok();
    let majority_time = majority
        .and_then(|optime| time(optime, "ts"))
        .or(operation_time)
        .ok_or(DeploymentError::Unsupported)?;
    let majority_term = majority.and_then(|optime| optime.get_i64("t").ok());
    let cluster_time = hello
        .get_document("$clusterTime")
        .ok()
        .and_then(|gossip| time(gossip, "clusterTime"))
        .unwrap_or(majority_time);
    Ok(Deployment { majority_time, majority_term, cluster_time, is_sharded })
}

/// What the hosts of the URI say of themselves.
#[derive(Debug)]
pub enum HostReport {
    /// One answers, and the driver will not take it before somebody has done something.
    InVain(Failure, String),
    /// One is of the set that is asked for; why it cannot be used yet.
    Member(String),
    /// One takes connections, and has not answered.
    Mute(String),
    /// Every host refuses connections: nothing listens there.
    Refused,
    /// None of their names is known.
    Unresolved,
    /// None answers.
    Silent,
}

/// After no server could be chosen: looks at the hosts one by one, for a reason that helps.
pub async fn look(options: &ClientOptions) -> HostReport {
    let mut found = None;
    let mut is_refused = !options.hosts.is_empty();
    let mut is_unresolved = is_refused;
    for address in &options.hosts {
        let ServerAddress::Tcp { host, port } = address else {
            (is_refused, is_unresolved) = (false, false);
            continue;
        };
        if tokio::net::lookup_host((host.as_str(), 0)).await.is_err() {
            is_refused = false;
            continue;
        }
        is_unresolved = false;
        let connect = TcpStream::connect((host.as_str(), port.unwrap_or(27017)));
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => continue,
            _ => {
                is_refused = false;
                continue;
            }
        }
        is_refused = false;
        match look_at(options, address).await {
            // The others may be leftovers: this one is what the driver waits for.
            member @ HostReport::Member(_) => return member,
            in_vain @ HostReport::InVain(..) if !matches!(found, Some(HostReport::InVain(..))) => {
                found = Some(in_vain);
            }
            other => found = found.or(Some(other)),
        }
    }
    found.unwrap_or(match (is_unresolved, is_refused) {
        (true, _) => HostReport::Unresolved,
        (_, true) => HostReport::Refused,
        (_, false) => HostReport::Silent,
    })
}

/// Why a server that takes connections does not answer.
fn why_mute(options: &ClientOptions, error: &Error) -> String {
    let said = failure::message(error);
    // Of the server, in what the driver says of all that it has tried: a bad certificate, for example.
    let cause = said.split_once("Error: Kind: ").map(|(_, cause)| cause);
    let cause = cause.map(|cause| cause.split(", labels").next().unwrap_or(cause));
    match (&options.tls, cause) {
        (Some(Tls::Enabled(_)), Some(cause)) => {
            format!("gives no answer by TLS, which mongodb.uri asks for: {cause}")
        }
        (Some(Tls::Enabled(_)), None) => {
            "gives no answer by TLS, which mongodb.uri asks for".to_owned()
        }
        _ => "gives no answer: it hangs, or wants TLS (`tls=true` in mongodb.uri)".to_owned(),
    }
}

async fn look_at(options: &ClientOptions, address: &ServerAddress) -> HostReport {
    let mut direct = options.clone();
    direct.hosts = vec![address.clone()];
    direct.direct_connection = Some(true);
    direct.repl_set_name = None;
    direct.server_selection_timeout = Some(Duration::from_secs(3));
    let hello = async {
        let client = Client::with_options(direct)?;
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
        client.shutdown().immediate(true).await;
        hello
    };
    let wanted = options.repl_set_name.as_deref();
    let hello = match hello.await {
        Ok(hello) => hello,
        Err(error) => {
            let failure = Failure::of(&error);
            let message = failure::message(&error);
            let reason = format!("{address} accepts connections, but: {message}");
            return match failure {
                Failure::Authentication => HostReport::InVain(failure, reason),
                Failure::Unreachable => HostReport::Mute(format!(
                    "{address} accepts connections, but {}",
                    why_mute(options, &error)
                )),
                _ => HostReport::Member(reason),
            };
        }
    };
    if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        return match wanted {
            Some(name) => HostReport::InVain(
                Failure::ConnectionString,
                format!("{address} is a mongos, but mongodb.uri asks for replicaSet={name}"),
            ),
            None => {
                HostReport::Member(format!("{address} is a mongos that cannot be used at present"))
            }
        };
    }
    match (hello.get_str("setName").ok(), wanted) {
        (Some(name), Some(wanted)) if name != wanted => HostReport::InVain(
            Failure::WrongSet,
            format!(
                "{address} is a member of the replica set `{name}`, but mongodb.uri asks for \
                 replicaSet={wanted}"
            ),
        ),
        (Some(name), _) => {
            let lacks = match &options.selection_criteria {
                None | Some(SelectionCriteria::ReadPreference(ReadPreference::Primary)) => {
                    "no primary"
                }
                Some(_) => "no member that the readPreference of mongodb.uri takes",
            };
            HostReport::Member(format!(
                "{address} is a member of the replica set `{name}`, but the set has {lacks} at \
                 present, or its members' names (rs.conf()) cannot be reached from here"
            ))
        }
        (None, _) if hello.get_bool("isreplicaset").unwrap_or(false) => HostReport::InVain(
            Failure::NotInitiated,
            format!("{address} runs with --replSet, but the replica set is not initiated"),
        ),
        (None, Some(_)) => {
            HostReport::InVain(Failure::Standalone, format!("{address} is a standalone server"))
        }
        // Without `replicaSet` the driver takes it, and its own answer says so.
        (None, None) => HostReport::Member(format!("{address} is a standalone server")),
    }
}

/// The hosts of the URI, for people.
pub fn hosts(options: &ClientOptions) -> String {
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    hosts.join(", ")
}
