#!/usr/bin/env perl
# A web server of a few lines: it listens where it is told to, and that is all Skep asks of a command.
use strict;
use warnings;
use IO::Socket::INET;
use POSIX qw(floor fmod mktime strftime);

my $port = shift or die "usage: server.pl PORT\n";
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64, ReuseAddr => 1)
    or die "cannot listen on port $port: $!\n";
$SIG{CHLD} = 'IGNORE';    # finished children are not waited for

while (1) {
    my $client = $server->accept or next;
    defined(my $child = fork) or next;
    if ($child) { close $client; next }
    answer($client);
    exit 0;
}

sub answer {
    my ($client) = @_;
    my ($method, $target) = split ' ', (<$client> // return);
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    my ($date) = ($target // '') =~ /[?&]date=(\d{4}-\d\d-\d\d)/;
    my $body = page($date // strftime('%Y-%m-%d', gmtime));
    print $client "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n",
        'Content-Length: ', length $body, "\r\nConnection: close\r\n\r\n", ($method eq 'HEAD' ? '' : $body);
    close $client;
}

# Days since the new moon of 6 January 2000, in turns of 29.53 days.
sub page {
    my ($date) = @_;
    my ($year, $month, $day) = split /-/, $date;
    my $days = (mktime(0, 0, 12, $day, $month - 1, $year - 1900) - 947_182_440) / 86_400;
    my $age = fmod(fmod($days, 29.530588) + 29.530588, 29.530588);
    my @names = ('new moon', 'waxing crescent', 'first quarter', 'waxing gibbous',
        'full moon', 'waning gibbous', 'last quarter', 'waning crescent');
    my $phase = floor($age / 29.530588 * 8 + 0.5) % 8;
    my $moon = '&#' . (0x1F311 + $phase) . ';';
    my $lit = sprintf '%.0f', 50 * (1 - cos(2 * 3.14159265 * $age / 29.530588));
    return <<"HTML";
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Moon phase</title>
<style>
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: #10131f; color: #e8e6d9;
  font: 1.15rem/1.6 Georgia, serif; text-align: center; }
.moon { font-size: 8rem; line-height: 1.2; }
input, button { font: inherit; padding: .4rem .8rem; border: 1px solid #6b7089; border-radius: .4rem; background: #1b2033; color: inherit; color-scheme: dark; }
</style>
</head>
<body>
<main>
<h1>Moon phase</h1>
<div class="moon">$moon</div>
<p id="verdict">On $date: $names[$phase], $lit&nbsp;% lit.</p>
<form><input type="date" name="date" value="$date" aria-label="Date"> <button>Look up</button></form>
</main>
</body>
</html>
HTML
}
