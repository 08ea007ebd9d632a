//! A TCP relay in this process that can cut, delay, stall and lose connections.
//!
//! The members of the replica set know each other, and are known to everybody, by their relays'
//! addresses. A relay tells whose connection it is by the `appName` in the driver's first message,
//! so that only the sidecars' connections suffer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to the bytes of governed connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Every piece waits.
    Delay(Duration),
    /// Nothing moves for now.
    Stall,
    /// As [`Mode::Pass`], for new connections; those of before stay open and silent for ever.
    Lose,
}

/// Which connections are governed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Governs {
    All,
    /// Those of drivers with this in their first message.
    App(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct Control {
    mode: Mode,
    /// Rises with every cut.
    cut: u64,
    /// Rises when open connections are lost.
    lost: u64,
    refuses: bool,
}

/// Passes bytes on to one address until it is told to cut, delay or stall.
pub struct Relay {
    pub address: SocketAddr,
    control: watch::Sender<Control>,
    target: watch::Sender<SocketAddr>,
}

impl Relay {
    pub async fn start(target: SocketAddr, governs: Governs) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let first = Control { mode: Mode::Pass, cut: 0, lost: 0, refuses: false };
        let relay = Relay {
            address,
            control: watch::Sender::new(first),
            target: watch::Sender::new(target),
        };
        let (control, target) = (relay.control.subscribe(), relay.target.subscribe());
        tokio::spawn(async move {
            loop {
                // Out of descriptors: the next one may be luckier.
                let Ok((socket, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let to = *target.borrow();
                tokio::spawn(carry(socket, to, governs, control.clone()));
            }
        });
        relay
    }

    /// Where new connections go.
    pub fn point_at(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    pub fn set(&self, mode: Mode) {
        self.control.send_modify(|control| {
            control.mode = mode;
            control.lost += u64::from(mode == Mode::Lose);
        });
    }

    /// Cuts what is open.
    pub fn cut(&self) {
        self.control.send_modify(|control| control.cut += 1);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.control.send_modify(|control| control.refuses = refuses);
    }
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    governs: Governs,
    control: watch::Receiver<Control>,
) {
    let mut first = Vec::new();
    let is_governed = match governs {
        Governs::All => true,
        Governs::App(name) => {
            if read_message(&mut client, &mut first).await.is_none() {
                return;
            }
            first.windows(name.len()).any(|part| part == name.as_bytes())
        }
    };
    if is_governed && control.borrow().refuses {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    if server.write_all(&first).await.is_err() {
        return;
    }
    let born = *control.borrow();
    let control = is_governed.then_some(control);
    let mut cut = control.clone();
    // A reset and a clean end are not the same to the other side: either, by chance.
    if is_governed && born.cut.is_multiple_of(2) {
        let socket = socket2::SockRef::from(&client);
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::join!(
            pump(from_client, to_server, control.clone(), born),
            pump(from_server, to_client, control.clone(), born)
        );
    };
    tokio::select! {
        () = both => {}
        () = was_cut(&mut cut, born) => {}
    }
}

async fn was_cut(control: &mut Option<watch::Receiver<Control>>, born: Control) {
    match control {
        // The sender goes with the process.
        Some(control) => drop(control.wait_for(|now| now.cut != born.cut).await),
        None => std::future::pending().await,
    }
}

/// The first message of MongoDB's wire protocol, which begins with its length.
async fn read_message(socket: &mut TcpStream, message: &mut Vec<u8>) -> Option<()> {
    loop {
        if let Some(length) = message.first_chunk::<4>().map(|bytes| i32::from_le_bytes(*bytes))
            && message.len() >= usize::try_from(length).ok()?
        {
            return Some(());
        }
        if socket.read_buf(message).await.ok()? == 0 {
            return None;
        }
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut control: Option<watch::Receiver<Control>>,
    born: Control,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            let _ = to.shutdown().await;
            return;
        };
        if let Some(control) = &mut control {
            obey(control, born).await;
        }
        let Some(bytes) = buffer.get(..length) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

async fn obey(control: &mut watch::Receiver<Control>, born: Control) {
    loop {
        let now = *control.borrow_and_update();
        if now.lost != born.lost {
            std::future::pending::<()>().await;
        }
        match now.mode {
            Mode::Pass | Mode::Lose => return,
            Mode::Delay(time) => {
                tokio::time::sleep(time).await;
                return;
            }
            Mode::Stall => drop(control.changed().await),
        }
    }
}
