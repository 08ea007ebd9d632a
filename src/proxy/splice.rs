//! A long body between two plain TCP connections, passed on by the kernel: its bytes never come
//! into this process.
//!
//! [splice(2)](https://man7.org/linux/man-pages/man2/splice.2.html) moves what a socket has received
//! into a pipe, and from there to another socket, without copying it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bodies with less than this to come are copied: a pipe has its price too.
pub const LEAST: u64 = 512 * 1024;
/// What a pipe holds, in bytes. The system may refuse it to a user who has many: then bodies are
/// copied, since through a small pipe it takes longer.
const PIPE: usize = 256 * 1024;
/// How many there are at most in this process: descriptors are scarce, and so is what the pipes of a
/// user may hold in all.
const MOST: usize = 16;

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The system has said that it does not do this.
static IS_REFUSED: AtomicBool = AtomicBool::new(false);

/// A pipe, and what is in it.
#[derive(Debug)]
pub struct Splice {
    entry: OwnedFd,
    exit: OwnedFd,
    held: usize,
    _place: Place,
}

/// One of [`MOST`].
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let place = Place;
        (COUNT.fetch_add(1, Ordering::Relaxed) < MOST).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a body was not passed on whole.
#[derive(Debug)]
pub enum Cut {
    /// Nothing was taken, and has to be read in another way.
    Refused,
    /// Nothing more comes. At the end of the connection, `UnexpectedEof`.
    From(io::Error),
    /// Nothing more is taken.
    To,
}

impl Splice {
    /// `None` where there are enough of them, or the system has no more: then bodies are copied.
    pub fn new() -> Option<Splice> {
        if IS_REFUSED.load(Ordering::Relaxed) {
            return None;
        }
        let place = Place::take()?;
        let (exit, entry) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        fcntl_setpipe_size(&entry, PIPE).ok()?;
        Some(Splice { entry, exit, held: 0, _place: place })
    }

    /// Passes on what comes, of which so much is left to be taken. `Ready(true)` when something was
    /// passed on, `Ready(false)` when there is nothing left.
    ///
    /// # Errors
    /// [`Cut`]; but for [`Cut::Refused`], what is in the pipe is lost then.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        left: &mut u64,
    ) -> Poll<Result<bool, Cut>> {
        if self.held == 0 {
            if *left == 0 {
                return Poll::Ready(Ok(false));
            }
            let most = usize::try_from(*left).unwrap_or(usize::MAX).min(PIPE);
            // The pipe is empty: when nothing is moved, it is because nothing has come.
            let taking = poll_move(cx, from, Interest::READABLE, || take(from, &self.entry, most));
            self.held = match ready!(taking) {
                Err(error) if is_refusal(&error) => {
                    IS_REFUSED.store(true, Ordering::Relaxed);
                    return Poll::Ready(Err(Cut::Refused));
                }
                Ok(0) => return Poll::Ready(Err(Cut::From(io::ErrorKind::UnexpectedEof.into()))),
                Ok(taken) => taken,
                Err(error) => return Poll::Ready(Err(Cut::From(error))),
            };
            *left -= self.held as u64;
        }
        // The pipe is not empty: when nothing is moved, it is because there is no room.
        let giving = poll_move(cx, to, Interest::WRITABLE, || step(&self.exit, to, self.held));
        match ready!(giving) {
            Ok(given @ 1..) => {
                self.held -= given;
                Poll::Ready(Ok(true))
            }
            _ => Poll::Ready(Err(Cut::To)),
        }
    }
}

/// Takes what has come. Where a network plugin has put itself between two sockets of a machine, it
/// may lie where `splice` does not look, who would wait for it for ever.
fn take(from: &TcpStream, to: &OwnedFd, most: usize) -> io::Result<usize> {
    let is_nothing = |taken: &io::Result<usize>| {
        taken.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    let taken = step(from, to, most);
    let mut space = [std::mem::MaybeUninit::uninit(); 1];
    if is_nothing(&taken) && socket2::SockRef::from(from).peek(&mut space).is_ok_and(|n| n > 0) {
        // Perhaps it has come just now.
        let taken = step(from, to, most);
        return if is_nothing(&taken) { Err(io::ErrorKind::Unsupported.into()) } else { taken };
    }
    taken
}

/// What a sandbox says, or a system that does not splice such sockets.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

fn step(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    splice(from, None, to, None, most, flags).map_err(io::Error::from)
}

/// Moves as soon as the socket is ready for it. Takes part in the runtime's budget, so that one
/// quick transfer does not keep a thread.
fn poll_move(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut step: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(match interest {
            Interest::READABLE => socket.poll_read_ready(cx),
            _ => socket.poll_write_ready(cx),
        })?;
        match socket.try_io(interest, &mut step) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            moved => return Poll::Ready(moved),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(connecting, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// Passes so much on; says what is left then.
    async fn pass(from: &TcpStream, to: &TcpStream, mut left: u64) -> (Result<(), Cut>, u64) {
        let mut splice = Splice::new().unwrap();
        loop {
            match poll_fn(|cx| splice.poll(cx, from, to, &mut left)).await {
                Ok(true) => {}
                Ok(false) => return (Ok(()), left),
                Err(cut) => return (Err(cut), left),
            }
        }
    }

    #[tokio::test]
    async fn a_body_passes_and_what_is_behind_it_stays() {
        const LENGTH: usize = 5_000_003;
        let (mut app, from) = pair().await;
        let (to, mut client) = pair().await;
        let body: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
        let sent = body.clone();
        let sending = tokio::spawn(async move {
            app.write_all(&sent).await.unwrap();
            app.write_all(b"next").await.unwrap();
        });
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            got
        });
        let (passed, left) = pass(&from, &to, LENGTH as u64).await;
        assert!(passed.is_ok() && left == 0);
        drop(to);
        assert!(reading.await.unwrap() == body);
        sending.await.unwrap();
        let mut next = [0; 4];
        from.readable().await.unwrap();
        assert_eq!((from.try_read(&mut next).unwrap(), &next), (4, b"next"));
    }

    #[tokio::test]
    async fn either_side_may_leave() {
        let (mut app, from) = pair().await;
        let (to, mut client) = pair().await;
        app.write_all(b"abc").await.unwrap();
        drop(app);
        let (passed, left) = pass(&from, &to, 10).await;
        let Err(Cut::From(error)) = passed else { panic!("{passed:?}") };
        assert_eq!((error.kind(), left), (io::ErrorKind::UnexpectedEof, 7));
        let mut got = [0; 3];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"abc");

        let (mut app, from) = pair().await;
        let (to, client) = pair().await;
        drop(client);
        let flood = tokio::spawn(async move { while app.write_all(&[0; 65536]).await.is_ok() {} });
        let (passed, _) = pass(&from, &to, u64::MAX).await;
        assert!(matches!(passed, Err(Cut::To)), "{passed:?}");
        drop(from);
        flood.await.unwrap();
    }
}
