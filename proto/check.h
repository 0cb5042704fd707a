/* check.h - whether an unpacked message can be believed. Of proto/ only; wire.h's readers call these. */
#ifndef LT_PROTO_CHECK_H
#define LT_PROTO_CHECK_H

#include "proto/wire.h"

/* OK, or E_FORMAT with a sentence. */
lt_status lt_control_check(const Lt__Wire__Control *control, lt_err *err);
lt_status lt_report_check(const Lt__Wire__Report *report, lt_err *err);
lt_status lt_plan_request_check(const Lt__Wire__PlanRequest *request, lt_err *err);
lt_status lt_plan_reply_check(const Lt__Wire__PlanReply *reply, lt_err *err);
lt_status lt_header_check(const Lt__Wire__Header *header, lt_err *err);

#endif
