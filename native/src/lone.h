/* ChaCha20-Poly1305 for a short packet by itself.
 *
 * What such a packet costs is not arithmetic but everything that has gone cold since the one before
 * it: code, tables, the wide vector units. So this is a few hundred bytes of code that keep all
 * they know in registers, where libcrypto goes through its providers and vector code wakes units
 * that it hardly uses. Constant time: no table, no branch and no address depends on a secret. */
#ifndef TC_LONE_H
#define TC_LONE_H

#include "aead.h"

/* Up to this many bytes it is the faster one when nothing is warm. */
#define TC_LONE_BYTES 256

#if defined(__SIZEOF_INT128__)
#define TC_LONE_USABLE 1
#else
#define TC_LONE_USABLE 0 /* Poly1305 here multiplies 64 by 64 bits */
#endif

void tc_lone_seal(const tc_aead_job *job);
/* Whether the tag was right; if not, the output is zeros. */
bool tc_lone_open(const tc_aead_job *job);

#endif
