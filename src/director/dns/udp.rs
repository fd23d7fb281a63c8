//! The socket of the name server: an answer leaves from the address that was asked, on machines with several too. A
//! socket that is bound to "any" would otherwise answer from whichever address the system prefers, and resolvers do
//! not take that for an answer.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;

/// The system may hand over several datagrams of one sender at once, and cuts what does not fit.
const BUFFER: usize = 64 << 10;

/// What has come.
pub(super) struct Received<'a> {
    /// From whom.
    pub(super) from: SocketAddr,
    /// To which address of ours, where the system tells.
    pub(super) to: Option<IpAddr>,
    /// One datagram or several, each but the last `each` bytes long.
    bytes: &'a [u8],
    each: usize,
}

impl Received<'_> {
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.each.max(1))
    }
}

/// The socket.
pub(super) struct Socket {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    buffer: Vec<u8>,
}

impl Socket {
    /// # Errors
    /// When the system does not let the socket be set up.
    pub(super) fn new(socket: tokio::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket, state, buffer: vec![0; BUFFER] })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// What has come, if anything has.
    pub(super) fn try_receive(&mut self) -> io::Result<Received<'_>> {
        let mut meta = [RecvMeta::default()];
        let (socket, state) = (&self.socket, &self.state);
        let mut buffers = [IoSliceMut::new(&mut self.buffer)];
        socket
            .try_io(Interest::READABLE, || state.recv(UdpSockRef::from(socket), &mut buffers, &mut meta))?;
        let [meta] = meta;
        let bytes = self.buffer.get(..meta.len).unwrap_or_default();
        Ok(Received { from: meta.addr, to: meta.dst_ip, bytes, each: meta.stride })
    }

    /// Sends an answer, from the address that was asked; a full buffer loses it.
    pub(super) fn try_send(&self, answer: &[u8], to: SocketAddr, from: Option<IpAddr>) {
        let transmit =
            Transmit { destination: to, ecn: None, contents: answer, segment_size: None, src_ip: from };
        let _ = self
            .socket
            .try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.socket), &transmit));
    }
}
