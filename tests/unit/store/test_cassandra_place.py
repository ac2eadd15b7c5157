"""`LERN_STORE_URL` for Cassandra: what it says, and what it must not say."""

import ssl

import pytest

from lern.errors import SettingsError
from lern.store.cassandra_place import Place


def test_a_url_names_hosts_keyspace_and_data_centre() -> None:
    place = Place.of("cassandra://h1,h2:9043,[::1]:9044/sunbird_courses?dc=dc1")
    assert place.hosts == (("h1", 9042), ("h2", 9043), ("::1", 9044))
    assert (place.keyspace, place.dc, place.consistency) == ("sunbird_courses", "dc1", "LOCAL_QUORUM")
    assert (place.user, place.password, place.tls) == (None, None, None)


@pytest.mark.parametrize(
    "url",
    [
        "cassandra://u%40x:p%2Fw@h/k",
        "cassandra://h/k?user=u%40x&password=p%2Fw",
    ],
)
def test_user_and_password_may_stand_before_the_hosts_or_among_the_options(url: str) -> None:
    place = Place.of(url)
    assert (place.user, place.password) == ("u@x", "p/w")


def test_tls_verifies_certificate_and_host_name_unless_told_otherwise() -> None:
    verified = Place.of("cassandra://h/k?tls=on").tls
    unnamed = Place.of("cassandra://h/k?tls=on&tls_hostname=off").tls
    assert verified is not None
    assert unnamed is not None
    assert (verified.check_hostname, verified.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (unnamed.check_hostname, unnamed.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("cassandra://h", "must be cassandra://HOST"),
        ("cassandra:///k", "must be cassandra://HOST"),
        ("cassandra://h:x/k", "'h:x' where HOST or HOST:PORT was expected"),
        ("cassandra://h/k?datacentre=dc1", "unknown option 'datacentre'"),
        ("cassandra://h/k?consistency=SOME", "asks for consistency 'SOME'"),
        ("cassandra://h/k?request_timeout=0", "request_timeout='0'"),
        ("cassandra://h/k?connect_timeout=soon", "connect_timeout='soon'"),
        ("cassandra://h/k?tls=yes", "tls='yes'; on or off was expected"),
        ("cassandra://h/k?tls_ca=/ca.pem", "tls_ca without tls=on"),
        ("cassandra://h/k?tls=on&tls_ca=/nowhere/ca.pem", "a certificate or key that cannot be used"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(url: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Place.of(url)
    assert problem in str(caught.value)


def test_an_error_does_not_repeat_the_password() -> None:
    with pytest.raises(SettingsError) as caught:
        Place.of("cassandra://me:secret@h:x/k?password=secret")
    assert "secret" not in str(caught.value)
