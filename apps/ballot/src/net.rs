//! The network as ballot uses it. In a simulation build it is the simulated one.

#[cfg(not(feature = "sim"))]
pub use tokio::net::{TcpListener, TcpStream};
#[cfg(feature = "sim")]
pub use turmoil::net::{TcpListener, TcpStream};

use std::net::IpAddr;

/// A block of addresses, as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    address: IpAddr,
    bits: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address or a block such as 10.0.0.0/8")]
pub struct BadBlock(String);

impl std::str::FromStr for Block {
    type Err = BadBlock;

    fn from_str(text: &str) -> Result<Self, BadBlock> {
        let bad = || BadBlock(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |b| b.parse().map_err(|_| bad()))?;
        if bits > most { Err(bad()) } else { Ok(Self { address, bits }) }
    }
}

impl Block {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// The neighbourhood that rate limits go by: 24 bits of IPv4, 48 of IPv6.
pub fn prefix(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(a) => u64::from(a.to_bits() >> 8) | 1 << 63,
        IpAddr::V6(a) => u64::try_from(a.to_bits() >> 80).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn blocks_hold_their_addresses() {
        let cases = [
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("192.168.1.5", "192.168.1.5", true),
            ("192.168.1.5", "192.168.1.6", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "fe80::1", true),
        ];
        for (block, address, inside) in cases {
            assert_eq!(
                block.parse::<Block>().expect(block).contains(ip(address)),
                inside,
                "{block} {address}"
            );
        }
        for bad in ["10.0.0.0/33", "10.0.0/8", "x", "::1/129", ""] {
            assert!(bad.parse::<Block>().is_err(), "{bad}");
        }
    }

    #[test]
    fn neighbours_share_a_prefix() {
        assert_eq!(prefix(ip("10.1.2.3")), prefix(ip("10.1.2.200")));
        assert_ne!(prefix(ip("10.1.2.3")), prefix(ip("10.1.3.3")));
        assert_eq!(prefix(ip("2001:db8:1:2::1")), prefix(ip("2001:db8:1:9::1")));
        assert_ne!(prefix(ip("2001:db8:1::1")), prefix(ip("2001:db8:2::1")));
    }
}
