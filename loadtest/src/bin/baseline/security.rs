//! Noise and TLS side by side, whichever the dialling peer asks for: what the builder of
//! a Swarm makes of two securities, which it does not hand out for WebSocket.

use std::io;

use futures::{
    AsyncRead, AsyncWrite, FutureExt as _, TryFutureExt as _,
    future::{BoxFuture, Either},
};
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    identity::Keypair,
    noise, tls,
};

const NOISE: &str = "/noise";
const TLS: &str = "/tls/1.0.0";

#[derive(Clone)]
pub(super) struct Securities {
    noise: noise::Config,
    tls: tls::Config,
}

impl Securities {
    pub(super) fn new(key: &Keypair) -> io::Result<Self> {
        Ok(Self {
            noise: noise::Config::new(key).map_err(io::Error::other)?,
            tls: tls::Config::new(key).map_err(io::Error::other)?,
        })
    }
}

impl UpgradeInfo for Securities {
    type Info = &'static str;
    type InfoIter = [&'static str; 2];

    fn protocol_info(&self) -> Self::InfoIter {
        [NOISE, TLS]
    }
}

type Secured<S> = (PeerId, Either<noise::Output<S>, tls::TlsStream<S>>);

impl<S> InboundConnectionUpgrade<S> for Securities
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured<S>>>;

    fn upgrade_inbound(self, socket: S, protocol: &'static str) -> Self::Future {
        if protocol == NOISE {
            let secured = self.noise.upgrade_inbound(socket, NOISE);
            let secured = secured.map_ok(|(peer, stream)| (peer, Either::Left(stream)));
            return secured.map_err(io::Error::other).boxed();
        }
        let secured = self.tls.upgrade_inbound(socket, TLS);
        let secured = secured.map_ok(|(peer, stream)| (peer, Either::Right(stream)));
        secured.map_err(io::Error::other).boxed()
    }
}

impl<S> OutboundConnectionUpgrade<S> for Securities
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured<S>>>;

    fn upgrade_outbound(self, socket: S, protocol: &'static str) -> Self::Future {
        if protocol == NOISE {
            let secured = self.noise.upgrade_outbound(socket, NOISE);
            let secured = secured.map_ok(|(peer, stream)| (peer, Either::Left(stream)));
            return secured.map_err(io::Error::other).boxed();
        }
        let secured = self.tls.upgrade_outbound(socket, TLS);
        let secured = secured.map_ok(|(peer, stream)| (peer, Either::Right(stream)));
        secured.map_err(io::Error::other).boxed()
    }
}
