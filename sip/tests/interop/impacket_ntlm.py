"""What another implementation of NTLM says, one line a fact, in hex.

Reads lines from standard input:
  verify CHALLENGE AUTHENTICATE USER DOMAIN PASSWORD TEXT
  answer CHALLENGE USER DOMAIN PASSWORD TEXT
(messages in base64, TEXT what is to be signed, in hex)
"""
import base64
import hashlib
import hmac
import struct
import sys

from Cryptodome.Cipher import ARC4
from impacket import ntlm

SEQUENCE = struct.pack("<I", 100)


def signature(flags, key, mode, text):
    """Datagram mode: the key of the stream is made anew for each message (MS-NLMP 3.4.4, 3.4.5.3)."""
    sign = ntlm.SIGNKEY(flags, key, mode)
    seal = hashlib.md5(ntlm.SEALKEY(flags, key, mode) + SEQUENCE).digest()
    mac = ntlm.MAC(flags, ARC4.new(seal).encrypt, sign, 100, text)
    return mac.getData()


def verify(challenge, authenticate, user, domain, password, text):
    challenge = ntlm.NTLMAuthChallenge(base64.b64decode(challenge))
    authenticate = base64.b64decode(authenticate)
    answer = ntlm.NTLMAuthChallengeResponse()
    answer.fromString(authenticate)
    # It does not read this field where a version precedes the payload.
    length, _, offset = struct.unpack_from("<HHI", authenticate, 52)
    encrypted = authenticate[offset:offset + length]
    key = ntlm.NTOWFv2(user, password, domain)
    response = answer["ntlm"]
    proof = hmac.new(key, challenge["challenge"] + response[16:], "md5").digest()
    print("proof", "right" if proof == response[:16] else "wrong")
    names = answer["user_name"].decode("utf-16le"), answer["domain_name"].decode("utf-16le")
    print("names", "right" if names == (user, domain) else "wrong")
    base = hmac.new(key, proof, "md5").digest()
    session = ARC4.new(base).decrypt(encrypted)
    for mode in ("Client", "Server"):
        print(mode, signature(answer["flags"], session, mode, text).hex())


def answer(challenge, user, domain, password, text):
    negotiate = ntlm.getNTLMSSPType1("LOADGEN", domain, True)
    negotiate["flags"] |= 0x40 | 0x100000 | 0x800000
    reply, session = ntlm.getNTLMSSPType3(negotiate, base64.b64decode(challenge), user, password, domain)
    print("authenticate", base64.b64encode(reply.getData()).decode())
    for mode in ("Client", "Server"):
        print(mode, signature(reply["flags"], session, mode, text).hex())


for line in sys.stdin:
    words = line.split()
    text = bytes.fromhex(words[-1])
    {"verify": verify, "answer": answer}[words[0]](*words[1:-1], text)
    print("end", flush=True)
